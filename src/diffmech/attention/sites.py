"""The names of a model's attention sites and heads, derived from module paths alone.

A site is one attention call of a pass. It is named after its module by stage, block and kind: `down1.0.self`,
`mid.0.cross`, `block03.self`, `joint07`, and `down1.0b1.self` where one transformer stack holds several blocks. Further
calls of a module in one pass are sites of their own: `mid.0.self#2`. A head is its site and its index:
`down1.0.self.h03`. Names never depend on enumeration order, so they join tables of different runs. The naming is ours.
"""

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Literal

from torch import nn

from diffmech.attention.modules import may_attend, modules_by_path
from diffmech.errors import ConfigError, ModelError

Kind = Literal["self", "cross", "joint"]

# The query projection and the head count, as diffusers, timm and transformers call them.
QUERY_PROJECTIONS = ("to_q", "qkv", "q_proj", "query")
HEAD_COUNTS = ("heads", "num_heads", "num_attention_heads", "n_heads")

UNET_PATH = re.compile(
    r"(?P<prefix>(?:.+\.)?)(?:(?P<stage>down|up)_blocks\.(?P<index>\d+)|(?P<mid>mid)_block)"
    r"\.attentions\.(?P<attention>\d+)(?:\.transformer_blocks\.(?P<block>\d+)\.(?P<leaf>attn[12]))?"
)
TRANSFORMER_PATH = re.compile(
    r"(?P<prefix>(?:.+\.)?)(?P<single>single_)?(?:transformer_)?blocks\.(?P<index>\d+)\.(?P<leaf>attn[12]?)"
)
HEAD_NAME = re.compile(r"(?P<site>.+)\.h(?P<head>\d{2,})")
# Processors that join the text to the image, where nothing else about their module says so.
JOINT_PROCESSORS = (
    "CogVideoXAttnProcessor2_0",
    "FusedCogVideoXAttnProcessor2_0",
    "CogVideoXAttnProcessor1_0",
    "CogView4AttnProcessor",
)
STAGE_ORDER = {"down": 0, "mid": 1, "up": 2}


@dataclass(frozen=True)
class AttentionSite:
    """One attention call: its name, the module that makes it, what it attends to and how many heads it has.

    `call` counts the calls of this name in one pass, from 1. `memory` is the number of keys that the module's
    self-attention has beside those of its queries, where only looking on tells (`attention.extra_tokens`). `order` is
    how its calls hold images and heads (`attention.folding`), None where no pass has shown it.
    """

    name: str
    module_path: str
    kind: Kind
    heads: int
    call: int = 1
    memory: int = 0
    order: str | None = field(default=None, compare=False)

    def again(self, call: int) -> "AttentionSite":
        """Return the site of the call of this number of the same module."""
        if call == self.call:
            return self
        name = self.name.removesuffix(f"#{self.call}")
        return replace(self, name=name if call == 1 else f"{name}#{call}", call=call)


@dataclass(frozen=True, order=True)
class HeadId:
    """One head of one site; `str(head_id)` is the join key of every table, e.g. `down1.0.self.h03`."""

    site: str
    head: int

    def __str__(self) -> str:
        return f"{self.site}.h{self.head:02d}"

    @classmethod
    def parse(cls, text: str) -> "HeadId":
        """Return the head that `text` names. Raises ConfigError when it is not of the form `site.hNN`."""
        match = HEAD_NAME.fullmatch(text)
        if match is None:
            raise ConfigError(f"{text!r} is not a head: expected a site and a two-digit head, e.g. down1.0.self.h03")
        return cls(match["site"], int(match["head"]))


def head_ids(site: AttentionSite) -> tuple[str, ...]:
    """Return the names of all heads of `site`, in order: `("down1.0.self.h00", ...)`."""
    return tuple(str(HeadId(site.name, head)) for head in range(site.heads))


def find_sites(model: nn.Module, modules: Mapping[str, nn.Module] | None = None) -> list[AttentionSite]:
    """Return the modules of `model` that are known as attention by their parts, as sites, before any run.

    They stand in module order with the middle of a U-Net between its two halves. What they call when they run, and
    which modules attend without being known, `attention.survey` tells. `modules` are those of `model` by path, where
    they are known. Raises ModelError when two would get one name.
    """
    every = modules_by_path(model) if modules is None else modules
    modules = {path: module for path, module in every.items() if may_attend(module) and _is_attention(path, module)}
    stacked = _stacks_of_several_blocks(modules)
    kinds = {path: _kind(path, module) for path, module in modules.items()}
    sites = [
        AttentionSite(_plain(_name(path, kinds[path], stacked)), path, kinds[path], _head_count(module) or 0)
        for path, module in modules.items()
    ]
    repeated = [name for name, count in Counter(site.name for site in sites).items() if count > 1]
    if repeated:
        paths = ", ".join(site.module_path for site in sites if site.name == repeated[0])
        raise ModelError(
            f"{type(model).__name__}: the attention modules {paths} would share the name {repeated[0]}; "
            "rename one of the modules"
        )
    return sorted(sites, key=_network_order)


def site_at(path: str, kind: Kind, heads: int) -> AttentionSite:
    """Return the site of a module that `find_sites` does not recognise, named by its path and kind."""
    return AttentionSite(f"{_plain(path)}.{kind}" if path else kind, path, kind, heads)


def attends_elsewhere(module: nn.Module) -> bool:
    """Return whether a module says of itself that it attends to something else than the image."""
    return getattr(module, "is_cross_attention", None) is True


def kind_of(module: nn.Module, own: bool) -> Kind:
    """Return what a call of a module that `find_sites` does not recognise attends to; `own`: it may be to itself."""
    return "self" if own and not attends_elsewhere(module) else "cross"


def resolve_heads(patterns: Iterable[str], sites: Iterable[AttentionSite]) -> list[HeadId]:
    """Return the heads that any of `patterns` names, each once, in the order of `sites`.

    A pattern is a head (`mid.0.self.h03`), a site (all of its heads) or a glob over either (`down1.*.self.h03`,
    `*.cross.*`). Raises ConfigError, with the nearest names that exist, when a pattern names no head.
    """
    sites = list(sites)
    heads = [HeadId(site.name, head) for site in sites for head in range(site.heads)]
    chosen: set[HeadId] = set()
    for pattern in patterns:
        found = {h for h in heads if fnmatchcase(str(h), pattern) or fnmatchcase(h.site, pattern)}
        if not found:
            known = [str(head) for head in heads]
            near = difflib.get_close_matches(pattern, known + [site.name for site in sites], n=3, cutoff=0.0)
            raise ConfigError(
                f"no head matches {pattern!r} among the {len(known)} heads of this model; "
                f"nearest: {', '.join(near) or 'none, the model has no attention'}"
            )
        chosen |= found
    return [head for head in heads if head in chosen]


def _is_attention(path: str, module: nn.Module) -> bool:
    # torch's own layer attends to itself or to others as it is called, which only a call tells.
    if not path or isinstance(module, nn.MultiheadAttention) or _head_count(module) is None:
        return False
    return any(hasattr(module, name) for name in QUERY_PROJECTIONS)


def _head_count(module: nn.Module) -> int | None:
    counts = (getattr(module, name, None) for name in HEAD_COUNTS)
    return next((count for count in counts if isinstance(count, int) and not isinstance(count, bool)), None)


def _plain(path: str) -> str:
    """Return a module path without what has a meaning in the names of arrays, globs or lists of heads."""
    return re.sub(r"[^\w.\-]", "_", path)


def _kind(path: str, module: nn.Module) -> Kind:
    """Tell self, cross and joint attention apart; joint means that keys of text and image stand in one softmax."""
    processor = type(getattr(module, "processor", None)).__name__
    if processor.startswith("WanAttnProcessor"):  # added keys have a softmax of their own here
        return "cross" if path.endswith("attn2") else "self"
    is_added = getattr(module, "added_kv_proj_dim", None) is not None
    if is_added or processor in JOINT_PROCESSORS or "single_transformer_blocks." in path:
        return "joint"
    is_cross = getattr(module, "is_cross_attention", None)
    if is_cross is None:
        width = getattr(module, "cross_attention_dim", None)
        is_cross = width is not None or "cross" in path.rpartition(".")[2]
    return "cross" if is_cross else "self"


def _stacks_of_several_blocks(paths: Iterable[str]) -> set[str]:
    """Return the path of each stack of transformer blocks inside a U-Net that holds more than one block."""
    blocks: dict[str, set[str]] = {}
    for path in paths:
        match = UNET_PATH.fullmatch(path)
        if match and match["block"]:
            blocks.setdefault(path[: match.start("block")], set()).add(match["block"])
    return {stack for stack, indices in blocks.items() if len(indices) > 1}


def _name(path: str, kind: Kind, stacked: set[str]) -> str:
    if match := UNET_PATH.fullmatch(path):
        stage = match["mid"] or match["stage"] + match["index"]
        several = match["block"] and path[: match.start("block")] in stacked
        block = f"b{match['block']}" if several else ""
        return f"{match['prefix']}{stage}.{match['attention']}{block}.{_role(kind, match['leaf'])}"
    if match := TRANSFORMER_PATH.fullmatch(path):
        index = f"{int(match['index']):02d}"
        if match["single"]:
            return f"{match['prefix']}single{index}"
        # The second attention of a joint block (SD3.5) attends to the image alone: it is `block00.self2`.
        if kind == "joint":
            return f"{match['prefix']}joint{index}"
        return f"{match['prefix']}block{index}.{_role(kind, match['leaf'])}"
    return f"{path}.{kind}"


def _role(kind: Kind, leaf: str | None) -> str:
    """Return the last part of a name: the kind, with the leaf's number where the leaf usually is of another kind."""
    usual = {"attn1": "self", "attn2": "cross"}
    return kind if leaf not in usual or kind in (usual[leaf], "joint") else kind + leaf[-1]


def _network_order(site: AttentionSite) -> int:
    match = UNET_PATH.fullmatch(site.module_path)
    return STAGE_ORDER[match["mid"] or match["stage"]] if match else 0
