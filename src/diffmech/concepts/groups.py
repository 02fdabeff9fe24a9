"""The weights of a denoiser by what they do: feed-forward, attention, convolutions, norms, conditioning, embedding.

A weight belongs to a group by the type of its module and, inside attention, by the name of the projection, as diffusers
calls them; so this holds for its U-Nets and transformers alike. Biases belong to none: to set one to zero takes away no
connection. The released code of CAD (arXiv 2412.02542) edits matrices with "ff" in their name: our `feed_forward`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from diffusers.models.attention import FeedForward
from torch import nn

from diffmech.attention.sites import AttentionSite, HeadId, find_sites
from diffmech.config.studies.concepts import GROUPS
from diffmech.errors import ModelError
from diffmech.models.denoiser import Denoiser

# Before the names of weights that are not of the network itself but of its conditioning tokens.
TOKENS = "condition_tokens."
# Parts of a module's path that stand for a feed-forward network, where it is not of diffusers' class.
FEED_FORWARD = {"ff", "ff_context", "ffn", "mlp", "feed_forward", "proj_mlp"}
# Parts of a path that stand for layers of the embedding of the timestep, to which that of a class is added.
EMBEDDING = {"time_emb_proj", "time_embedding", "add_embedding", "adaln_single"}
# The projections of attention, also those that joint attention has for text.
PROJECTIONS = {
    "to_q": "query",
    "add_q_proj": "query",
    "to_k": "key",
    "add_k_proj": "key",
    "to_v": "value",
    "add_v_proj": "value",
    "to_out": "out",
    "to_add_out": "out",
}


@dataclass(frozen=True)
class Weight:
    """One weight tensor: its name, its group, and the heads that its rows (`out` false) or its columns belong to."""

    name: str
    parameter: nn.Parameter
    group: str
    heads: tuple[str, ...] = ()

    @property
    def out(self) -> bool:
        """Whether heads divide the columns, as in an output projection, and not the rows."""
        return self.group.endswith("_out")


def weights(denoiser: Denoiser, groups: Sequence[str] | None = None) -> list[Weight]:
    """Return the weights of `groups`, by default of all that `denoiser` has, in the order of its modules.

    Raises ModelError where it has none of an asked group.
    """
    found = list(_grouped(denoiser))
    if groups is None:
        return found
    have = {weight.group for weight in found}
    if missing := [group for group in groups if group not in have]:
        raise ModelError(
            f"{type(denoiser.module).__name__} has no weights of the group {missing[0]!r}, only of "
            f"{', '.join(group for group in GROUPS if group in have) or 'none'}; name some of these in concepts.groups "
            "and in concepts.edits"
        )
    return [weight for weight in found if weight.group in groups]


def by_mechanism(among: Sequence[Weight], mechanisms: Mapping[str, str]) -> list[Weight]:
    """Return the weights with the mechanism of each head in place of the head, "" of a head without one."""
    return [replace(weight, heads=tuple(mechanisms.get(head, "") for head in weight.heads)) for weight in among]


def parameters(denoiser: Denoiser) -> dict[str, nn.Parameter]:
    """Return every parameter that an edit may name."""
    tokens = {} if denoiser.tokens is None else dict(denoiser.tokens.named_parameters())
    named = {f"{TOKENS}{name}": value for name, value in tokens.items()}
    return dict(denoiser.module.named_parameters()) | named


def module_of(denoiser: Denoiser, name: str) -> nn.Module:
    """Return the module whose weight is called `name`."""
    if name.startswith(TOKENS):
        return denoiser.tokens.get_submodule(name.removeprefix(TOKENS).rpartition(".")[0])  # type: ignore[union-attr]
    return denoiser.module.get_submodule(name.rpartition(".")[0])


def _grouped(denoiser: Denoiser) -> Iterator[Weight]:
    sites = {site.module_path: site for site in find_sites(denoiser.module)}
    feed_forward = [path for path, module in denoiser.module.named_modules() if isinstance(module, FeedForward)]
    for path, module in denoiser.module.named_modules():
        parameter = getattr(module, "weight", None)
        if not isinstance(parameter, nn.Parameter):
            continue
        site, projection = _projection(path, sites)
        group = _group(path, module, parameter, site, projection, feed_forward)
        if group is not None:
            heads = _heads(site, projection, parameter)
            yield Weight(f"{path}.weight", parameter, group, heads)
    if denoiser.tokens is not None:
        for name, parameter in denoiser.tokens.named_parameters():
            yield Weight(f"{TOKENS}{name}", parameter, "conditioning")


def _projection(path: str, sites: dict[str, AttentionSite]) -> tuple[AttentionSite | None, str | None]:
    """Return the attention site that the module at `path` projects for, and how."""
    parts = path.split(".")
    for end in range(len(parts) - 1, 0, -1):
        site = sites.get(".".join(parts[:end]))
        if site is not None:
            return site, PROJECTIONS.get(parts[end])
    return None, None


def _group(
    path: str,
    module: nn.Module,
    parameter: nn.Parameter,
    site: AttentionSite | None,
    projection: str | None,
    feed_forward: Iterable[str],
) -> str | None:
    if parameter.dim() == 1:  # also the norms of queries and keys, inside attention
        return "norm" if "norm" in type(module).__name__.lower() else None
    if site is not None and projection is not None:
        return f"{site.kind}_{projection}"
    if any(path.startswith(f"{part}.") for part in feed_forward) or FEED_FORWARD & set(path.split(".")):
        return "feed_forward"
    if isinstance(module, nn.Embedding):
        return "conditioning"
    if EMBEDDING & set(path.split(".")):
        return "embedding"
    return "convolution" if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) else None


def _heads(site: AttentionSite | None, projection: str | None, parameter: nn.Parameter) -> tuple[str, ...]:
    """Return the head of each row, or of each column of an output projection; empty where heads do not divide them."""
    if site is None or projection is None or not site.heads:
        return ()
    length = parameter.shape[1] if projection == "out" else parameter.shape[0]
    if length % site.heads:  # heads that share keys and values have fewer of these
        return ()
    width = length // site.heads
    return tuple(str(HeadId(site.name, index // width)) for index in range(length))
