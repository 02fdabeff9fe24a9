"""The modules of a model by their paths, which of them may attend, and hooks on these. Ours."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

from torch import nn
from torch.utils.hooks import RemovableHandle

# Layers of torch that neither attend nor multiply two tensors that both depend on the input, and call nothing that
# may, and what is never called. They are most of a model: of a U-Net shaped as that of SDXL 1,531 of 1,923 modules.
QUIET = {
    *(nn.Linear, nn.Embedding, nn.Identity, nn.Flatten, nn.Unflatten, nn.Upsample, nn.PixelShuffle, nn.PixelUnshuffle),
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm2d),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.SiLU, nn.GELU, nn.ReLU, nn.ReLU6, nn.Mish, nn.ELU),
    *(nn.LeakyReLU, nn.PReLU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Hardswish, nn.AvgPool2d, nn.MaxPool2d),
    *(nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict),
}


def may_attend(module: nn.Module) -> bool:
    """Return whether a module may attend: none of torch's own of which it is known that they do not."""
    return type(module) not in QUIET or "forward" in vars(module)


def modules_by_path(model: nn.Module) -> dict[str, nn.Module]:
    """Return what `model.named_modules()` does, in its order, in time that does not grow with the depth."""
    found: dict[str, nn.Module] = {}
    seen: set[nn.Module] = set()
    waiting = [("", model)]
    while waiting:
        path, module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        found[path] = module
        if module._modules:
            start = f"{path}." if path else ""
            children = reversed(module._modules.items())
            waiting += [(start + name, child) for name, child in children if child is not None]
    return found


def modules_to_hook(
    every: Mapping[str, nn.Module], known: Collection[str], chosen: Collection[str] | None
) -> dict[str, nn.Module]:
    """Return those whose running tells who makes a call: where all `chosen` are `known` by their parts, those."""
    if chosen is not None and all(path in known for path in chosen):
        return {path: every[path] for path in ("", *known)}
    return {path: module for path, module in every.items() if not path or may_attend(module)}


@contextmanager
def hooks(
    modules: Mapping[str, nn.Module],
    begin: Callable[..., None],
    entering: Callable[[str], Callable[..., None]],
    leave: Callable[..., None],
) -> Iterator[None]:
    """Call `begin` before the model at "" runs, `entering(path)` before others, `leave` after any, even if it failed.

    `begin` is given arguments by name too.
    """
    handles: list[RemovableHandle] = []
    try:
        for path, module in modules.items():
            # Prepended, so that no other hook can fail between this one and the forward it announces.
            if path:
                handles.append(module.register_forward_pre_hook(entering(path), prepend=True))
            else:
                handles.append(module.register_forward_pre_hook(begin, prepend=True, with_kwargs=True))
            handles.append(module.register_forward_hook(leave, always_call=True))
        yield
    finally:
        for handle in handles:
            handle.remove()
