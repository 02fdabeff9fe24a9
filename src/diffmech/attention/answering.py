"""Where the queries of an attention call stand whose own values do not tell: by where their outputs go. Ours.

Queries that are of places alone hear nothing of the image, as learned queries do, which stand nowhere. But what a query
of a place brings goes to that place, so that where outputs of some queries are those of another image, the prediction
changes most there.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from diffmech.attention.calls import AttentionCall
from diffmech.attention.hearing import DRAWS, Heard, Stripes
from diffmech.attention.places import COARSE
from diffmech.attention.sites import AttentionSite
from diffmech.attention.tap import AttentionTap
from diffmech.models.denoiser import Denoiser


class _Mixed:
    """Intervention that mixes the outputs of two images by stripes of the queries of one site.

    A draw has the second image, and the first one once more than there are stripes and images.
    """

    def __init__(self, site: str, queries: slice, stripes: list[Stripes], grid: tuple[int, int]) -> None:
        self.site, self.queries = site, queries
        halves = [each.on(*grid).ravel() >= 0.5 for each in stripes]
        self.second = torch.tensor(
            [[False] * len(halves[0]), [True] * len(halves[0]), *(half.tolist() for half in halves)]
        )

    def applies_to(self, site: AttentionSite) -> bool:
        return site.name == self.site

    def replace_output(self, call: AttentionCall) -> Float[Tensor, "sample head query channel"]:
        output = call.output.clone()
        draws = output.unflatten(0, (DRAWS, -1))[..., self.queries, :]
        second = self.second.to(output.device)[:, None, :, None]
        draws[:, 1:] = torch.where(second, draws[:, :1], draws[:, 1:])
        return output


@torch.no_grad()
def answered(
    denoiser: Denoiser,
    sites: list[AttentionSite],
    name: str,
    queries: slice,
    stripes: list[Stripes],
    draws: list[Float[Tensor, "image channel row column"]],
) -> tuple[Heard, list[Stripes]]:
    """Return what each pixel of the prediction hears of outputs of one site that are mixed by some of the stripes.

    `draws` are `hearing.mixed_images`. The stripes are the coarse ones that the grid of the queries resolves.
    """
    grid = denoiser.site_grid(name, queries.stop - queries.start)
    chosen = [each for each in stripes if each.level <= COARSE and each.resolved(*grid)]
    pairs = torch.stack([draw[:2] for draw in draws])
    batch = torch.cat([pairs[:, 1:], pairs[:, :1].expand(-1, len(chosen) + 2, -1, -1, -1)], 1).flatten(0, 1)
    mixed = _Mixed(name, queries, chosen, grid)
    with AttentionTap(denoiser.module, interventions=[mixed], sites=sites):
        noise = denoiser.predict_noise(batch, denoiser.timesteps // 2)
    pixels = noise.double().flatten(2).mT.unflatten(0, (DRAWS, -1))[:, 1:, None]  # one head of as many tokens as pixels
    changes = [(pixels[:, 2:] - pixels[:, image : image + 1]).square().sum(-1).cpu().numpy() for image in range(2)]
    return Heard(changes[0], changes[1], 0.0), chosen
