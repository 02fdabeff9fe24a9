"""What one factor does inside one VAE: to its latents, to the units of its layers, and through these to its outputs.

Ours, with the effects of `diffmech.vae.mediation`. Pairs of images differ in the factor. The encoder gets the images,
and its output is read as posterior means in standard deviations of the aggregate posterior; the decoder gets the
posterior means of both, and its output is read as pixels in [0, 1]. The last layer of each network is its output: its
units are what is read, and are no units here.

- A unit's *activity* is the root mean square, over its places, of what the change of the factor adds to it, in units of
  its own spread: the root mean square over places of its standard deviation over the images of the pairs.
- Its *share* is how much of the change of the output setting it alone brings: the projection on the change,
  `<d_unit, d> / <d, d>`. All units of a layer together bring 1. Pairs are weighed by `<d, d>`, so that those whose
  output hardly changes do not decide: a share of pairs is `sum <d_unit, d> / sum <d, d>`.
- Units are *chosen* on the first half of the pairs, by their share alone, and all that is said of chosen ones is of the
  second half, beside equally many at random (`RANDOM` draws, on the pairs of the second half that are `tried`).
- Mediation is of the latent that moves most on the first half. A factor changes up as often as down, so each pair is
  signed by its own total effect, and the mean total effect is the mean absolute change.
- *Twins* are VAEs of the same form with fresh weights. They see `TRIED` pairs, as many of either half, on which single
  units are patched, too; `twins` is the root mean square of their activity over these pairs, `compared` that of the
  VAE's own units on the same.

The latent of a VQ-VAE is a grid: `moved` is which places change their code, the encoder's output is what codes are
looked up for, and there is no latent that could be mediated.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from diffmech.artifacts import open_store, provenance, write_store
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.studies.vae import VaeMeasures
from diffmech.data.factors.dataset import FactorData
from diffmech.errors import StoreError
from diffmech.randomness import generator
from diffmech.vae.families import ContinuousVae, GridVae, Vae, laid_out
from diffmech.vae.mediation import mediation
from diffmech.vae.networks import layer_names, posterior
from diffmech.vae.pairs import Pairs, draw_pairs
from diffmech.vae.patching import each_layer, each_unit_alone, run_from
from diffmech.vae.training import read_vae
from diffmech.vae.twins import changes, untrained_twin

TRIED = 64  # pairs on which units are patched one at a time, and that twins see
RANDOM = 20  # draws of as many units as are chosen
KEPT = 4  # twins whose changes are kept pair by pair, for how modular they are
BATCH = 256
EXACT = ("before", "after", "mediation")  # kept in float64
EFFECTS = ("total", "direct", "indirect", "interaction")
NO_LATENTS = "a VQ-VAE has no single latents: moved is which places change their code"
Read = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Side:
    """An encoder or a decoder with the inputs of both images of every pair, and what its output is read as,
    `(sample, value)`."""

    network: nn.Sequential
    before: Tensor
    after: Tensor
    read: Read

    @cached_property
    def clean(self) -> Tensor:
        """What is read for the images before, `(pair, value)`."""
        return _batched(lambda part: self.read(self.network(part)), self.before)

    @cached_property
    def full(self) -> Tensor:
        """What the change of the factor adds to it, `(pair, value)`, in float64."""
        return (_batched(lambda part: self.read(self.network(part)), self.after) - self.clean).double()

    @property
    def weight(self) -> np.ndarray:
        """How much the output changes, `(pair,)`: the sum of squares."""
        return self.full.square().sum(1).cpu().numpy()


def study_factor(
    vae_dir: Path,
    codes: Path,
    output: Path,
    *,
    data: FactorData,
    factor: str,
    measures: VaeMeasures,
    runtime: RuntimeConfig,
) -> None:
    """Write what changing `factor` does inside the VAE of `vae_dir`, whose codes store holds the spread of its latents.

    Raises StoreError for a store that is missing or of a VAE of another size, DataError for a factor that cannot be
    changed.
    """
    vae = read_vae(vae_dir, device=runtime.device)
    pairs = draw_pairs(data, factor, measures.pairs, seed=measures.seed)
    tree = factor_tree(vae, deviation_of(codes, vae), pairs, factor, measures)
    told = open_store(codes).attrs
    tree.attrs = {
        **{name: told[name] for name in ("data", "family", "vae_seed")},
        "factor": factor,
        **tree.attrs,
        "provenance": provenance(rule="vae_factor", factor=factor, measures=measures.canonical()),
    }
    write_store(output, tree)


def deviation_of(codes: Path, vae: Vae) -> np.ndarray | None:
    """Return the standard deviations `(latent,)` of a VAE's latents from its codes store, None for a VQ-VAE.

    Raises StoreError for a store of another VAE.
    """
    if isinstance(vae, GridVae):
        return None
    try:
        deviation = open_store(codes)["latents"]["deviation"].to_numpy()
    except KeyError:
        deviation = np.empty(0)
    if deviation.shape != (vae.config.network.latents,):
        raise StoreError(
            f"{codes}: tells the spread of {deviation.size} latents, but its VAE has {vae.config.network.latents}; "
            "delete the store and have the codes written anew"
        )
    return deviation


def factor_tree(
    vae: Vae, deviation: np.ndarray | None, pairs: Pairs, factor: str, measures: VaeMeasures
) -> xr.DataTree:
    """Return what changing a factor from the images before to those after does inside a VAE, as one tree.

    `deviation` `(latent,)` is the spread of its latents under the aggregate posterior, None for a VQ-VAE.
    """
    vae = laid_out(vae)
    device = next(vae.parameters()).device
    images = tuple(torch.from_numpy(np.ascontiguousarray(each)).to(device) for each in (pairs.before, pairs.after))
    tried, _ = halves_of(len(pairs.old))
    sides = sides_of(vae, images, deviation)
    moved = moves(vae, images, deviation)
    seen = tuple(each[tried] for each in images)
    twins = [untrained_twin(vae, seen, seed=measures.seed, number=number) for number in range(measures.twins)]
    latent = None if deviation is None else int(np.abs(moved[: len(moved) // 2]).mean(0).argmax())
    nodes = {}
    for side, chain in sides.items():
        given = tuple(each_layer(chain.network, each) for each in (chain.before, chain.after))
        for layer in layer_names(chain.network)[:-1]:
            before, after = (each[layer] for each in given)
            name = f"{side}.{layer}"
            source = generator(measures.seed, "random units", factor, name)
            nodes[name] = layer_study(
                chain,
                layer,
                (before, after),
                share=measures.share,
                source=source,
                latent=latent if side == "encoder" else None,
                of_latents=side == "encoder" and deviation is not None,
            ).assign(
                compared=("unit", changes(before[tried], after[tried]).overall),
                twins=(("twin", "unit"), np.stack([twin.changes[name].overall for twin in twins])),
                twins_changing=(
                    ("twin", "unit"),
                    np.stack([(twin.changes[name].activity > 0).mean(0) for twin in twins]),
                ),
                twins_signed=(
                    ("kept", "tried", "unit"),
                    np.stack([twin.changes[name].signed for twin in twins[:KEPT]]),
                ),
            )
    places = ("latent",) if deviation is not None else ("y", "x")
    root = xr.Dataset(
        {
            "before": ("pair", pairs.old),
            "after": ("pair", pairs.new),
            "moved": (("pair", *places), moved),
            "twins_moved": (("twin", *places), np.stack([twin.moved for twin in twins])),
            **{f"{side}_weight": ("pair", chain.weight) for side, chain in sides.items()},
        },
        attrs={
            "latent": -1 if latent is None else latent,
            "layers": list(nodes),
            "undefined": NO_LATENTS if deviation is None else "",
        },
    )
    return xr.DataTree.from_dict({"/": _small(root), **{name: _small(node) for name, node in nodes.items()}})


def halves_of(pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which pairs are tried unit by unit, as many of the first half as of the second, and which are the second
    half."""
    half, some = pairs // 2, min(TRIED // 2, pairs // 2)
    return np.concatenate([np.arange(some), np.arange(half, half + some)]), np.arange(half, pairs)


def sides_of(vae: Vae, images: Sequence[Tensor], deviation: np.ndarray | None) -> dict[str, Side]:
    """Return the encoder and the decoder of a VAE with what each gets for the images before and after."""
    before, after = images
    if isinstance(vae, GridVae):
        looked_up = [vae.codebook.look_up(_batched(vae.encode, each)) for each in images]
        encoder = Side(vae.encoder, before, after, lambda encoded: encoded.flatten(1))
    else:
        assert isinstance(vae, ContinuousVae)
        assert deviation is not None
        looked_up = [_means(vae, each) for each in images]
        unit = torch.from_numpy(deviation).to(looked_up[0])
        encoder = Side(vae.encoder, before, after, lambda encoded: posterior(encoded)[0] / unit)
    return {
        "encoder": encoder,
        "decoder": Side(vae.decoder, looked_up[0], looked_up[1], lambda decoded: vae.pixels(decoded).flatten(1)),
    }


def moves(vae: Vae, images: Sequence[Tensor], deviation: np.ndarray | None) -> np.ndarray:
    """Return the signed change `(pair, latent)` of the posterior means in `deviation`, or which codes change
    `(pair, y, x)`, 0 or 1."""
    before, after = images
    if isinstance(vae, GridVae):
        return (_batched(vae.encode, after) != _batched(vae.encode, before)).cpu().numpy().astype(np.float32)
    assert isinstance(vae, ContinuousVae)
    assert deviation is not None
    return (_means(vae, after) - _means(vae, before)).double().cpu().numpy() / deviation


def layer_study(
    side: Side,
    layer: str,
    given: tuple[Tensor, Tensor],
    *,
    share: float,
    source: np.random.Generator,
    latent: int | None,
    of_latents: bool,
) -> xr.Dataset:
    """Return what the units of a layer do, which gives `given` `(pair, unit, ...)` for the images before and after.

    `share` of them are patched together. `latent` is what they mediate, if anything, and `of_latents` says whether
    what is read are latents, whose changes by each unit are kept.
    """
    before, after = given
    tried, second = halves_of(len(before))
    alone, of_unit = _alone(side, layer, given, tried, of_latents=of_latents)
    weights = side.weight[tried]
    count = max(1, round(share * before.shape[1]))
    on_first = (weights[: len(tried) // 2, None] * alone[: len(tried) // 2]).sum(0)
    chosen = np.sort(np.argsort(-on_first, kind="stable")[:count])
    random = np.stack([source.permutation(before.shape[1])[:count] for _ in range(RANDOM)])
    some = tried[len(tried) // 2 :]
    together = _projected(_added(side, layer, given, chosen, second), side.full[second])
    random_added = [_added(side, layer, given, units, some) for units in random]
    random_shares = np.stack([_projected(each, side.full[some]) for each in random_added])
    found = changes(before, after)
    study = xr.Dataset(
        {
            "activity": (("pair", "unit"), found.activity),
            "signed": (("pair", "unit"), found.signed),
            "alone": (("tried", "unit"), alone),
            "chosen": ("choice", chosen),
            "together": ("second", together),
            "random_together": (("draw", "some"), random_shares),
        },
        coords={"tried": tried},
    )
    if of_latents:
        study["unit_latent"] = ("tried", "unit", "latent"), of_unit
    if latent is not None:
        mediated = mediation(
            side.network,
            layer,
            list(chosen),
            side.before[second],
            side.after[second],
            lambda output: side.read(output)[:, latent],
        )
        sign = np.where(mediated.total < 0, -1.0, 1.0)
        study["mediation"] = ("effect", "second"), np.stack([sign * getattr(mediated, name) for name in EFFECTS])
        study["random_indirect"] = (
            "draw",
            np.stack([(sign[: len(some)] * each[:, latent].cpu().numpy()).mean() for each in random_added]),
        )
    return study


def _added(side: Side, layer: str, given: tuple[Tensor, Tensor], units: np.ndarray, pairs: np.ndarray) -> Tensor:
    """Return what setting `units` of a layer to what they are after adds to the output, `(pair, value)`, in float64."""
    added = []
    for part in np.array_split(pairs, -(-len(pairs) // BATCH)):
        values, after = given[0][part].clone(), given[1][part]
        index = torch.from_numpy(units).to(values.device)
        values[:, index] = after[:, index]
        added.append(side.read(run_from(side.network, layer, values)) - side.clean[part])
    return torch.cat(added).double()


def _alone(
    side: Side, layer: str, given: tuple[Tensor, Tensor], tried: np.ndarray, *, of_latents: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the share `(tried, unit)` of the output's change that each unit brings alone, and what it adds to each
    latent, `(tried, unit, latent)`."""
    before, after = (each[tried] for each in given)
    shape = before.shape[:2]
    alone = np.zeros(shape)
    of_unit = np.zeros((*shape, side.full.shape[1] if of_latents else 0), dtype=np.float32)
    for pairs, units, added in each_unit_alone(side.network, layer, before, after, side.read, BATCH):
        alone[pairs, units] = _projected(added.double(), side.full[tried[pairs]])
        if of_latents:
            of_unit[pairs, units] = added.cpu().numpy()
    return alone, of_unit


def _projected(added: Tensor, full: Tensor) -> np.ndarray:
    """Return `<added, full> / <full, full>` of each row, 0 where nothing changes."""
    size = full.square().sum(1)
    return torch.where(size > 0, (added * full).sum(1) / torch.where(size > 0, size, 1), 0).cpu().numpy()


@torch.no_grad()
def _batched(run: Read, inputs: Tensor) -> Tensor:
    return torch.cat([run(part) for part in inputs.split(BATCH)])


def _means(vae: ContinuousVae, images: Tensor) -> Tensor:
    return _batched(lambda part: vae.encode(part)[0], images)


def _small(dataset: xr.Dataset) -> xr.Dataset:
    """Return it with its numbers as float32, but for those whose last digits are asked for."""
    names = [name for name, each in dataset.data_vars.items() if each.dtype == np.float64]
    return dataset.assign({name: dataset[name].astype(np.float32) for name in names if name not in EXACT})
