"""Reading and replacing what a layer of an encoder or a decoder gives to the next: one mechanism for both. Ours.

A hook on the layer sees its output and may put another in its place; it is gone when its context ends, however it ends,
and the network is never changed. Units are what stands in the second axis: channels of a convolution, which are patched
at all places, or numbers of a dense layer.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from diffmech.errors import ModelError
from diffmech.vae.networks import layer_names

Change = Callable[[Tensor], Tensor | None]


@contextmanager
def at_layer(network: nn.Sequential, layer: str, change: Change) -> Iterator[None]:
    """Within this context `change` gets every output `(sample, unit, ...)` of a layer, and what it returns takes its
    place, unless it is None. Raises ModelError for a layer that the network does not have."""
    if layer not in layer_names(network):
        raise ModelError(f"there is no layer {layer!r}; give one of {', '.join(layer_names(network))}")
    module = network.get_submodule(layer)
    hook = module.register_forward_hook(lambda _module, _inputs, output: change(output))
    try:
        yield
    finally:
        hook.remove()


@torch.no_grad()
def activations(network: nn.Sequential, layer: str, inputs: Tensor) -> Tensor:
    """Return what a layer gives to the next, `(sample, unit, ...)`."""
    seen: list[Tensor] = []
    with at_layer(network, layer, seen.append):
        network(inputs)
    return seen[0]


@torch.no_grad()
def patched(
    network: nn.Sequential, layer: str, inputs: Tensor, values: Tensor, units: Sequence[int] | None = None
) -> Tensor:
    """Return the output of a network for `inputs` with some units of a layer set to `values`, all where it is None.

    `values` is `(sample, unit, ...)`, as `activations` returns it, of all units. An input's own activations change
    nothing, bit for bit. Raises ModelError for values of another shape than the layer's, and units it does not have.
    """

    def change(output: Tensor) -> Tensor:
        if values.shape != output.shape:
            raise ModelError(
                f"values of shape {tuple(values.shape)} do not fit layer {layer!r}, which gives {tuple(output.shape)}; "
                "take those of as many inputs, in full"
            )
        chosen = range(output.shape[1]) if units is None else units
        if odd := [unit for unit in chosen if not 0 <= unit < output.shape[1]]:
            raise ModelError(
                f"layer {layer!r} has no unit {odd[0]}, only 0 to {output.shape[1] - 1}; give some of these"
            )
        index = torch.tensor(list(chosen), dtype=torch.long, device=output.device)
        replaced = output.clone()  # in the memory format of the output, which the rounding of what follows depends on
        replaced[:, index] = values[:, index].to(output)
        return replaced

    with at_layer(network, layer, change):
        return network(inputs)


@torch.no_grad()
def each_layer(network: nn.Sequential, inputs: Tensor) -> dict[str, Tensor]:
    """Return what every layer gives to the next, `(sample, unit, ...)`, by its name, from one run."""
    given, values = {}, inputs
    for name, layer in network.named_children():
        values = layer(values)
        given[name] = values
    return given


@torch.no_grad()
def run_from(network: nn.Sequential, layer: str, values: Tensor) -> Tensor:
    """Return the output of a network of which a layer gives `values`, `(sample, unit, ...)`: of `patched`, what follows
    that layer and nothing before it. Raises ModelError for a layer that the network does not have."""
    names = layer_names(network)
    if layer not in names:
        raise ModelError(f"no layer is called {layer!r} to run from; the network has {', '.join(names)}")
    return network[names.index(layer) + 1 :](values)


@torch.no_grad()
def each_unit_alone(
    network: nn.Sequential,
    layer: str,
    before: Tensor,
    after: Tensor,
    read: Callable[[Tensor], Tensor],
    batch_size: int = 256,
) -> Iterator[tuple[np.ndarray, np.ndarray, Tensor]]:
    """Yield pairs `(case,)`, units `(case,)` and what setting this unit alone adds to the output, `(case, value)`.

    `before` and `after` `(pair, unit, ...)` are what a layer gives for the two inputs of each pair, and `read` makes
    `(sample, value)` of outputs. Cases in which the unit gives the same for both inputs change nothing and are left
    out. What is yielded is what `patched` with one unit gives, less what the first input gives.
    """
    cases = (before != after).flatten(2).any(2) if before.ndim > 2 else before != after
    clean = torch.cat([read(run_from(network, layer, part)) for part in before.split(batch_size)])
    every = cases.nonzero()
    for start in range(0, len(every), batch_size):
        pairs, units = every[start : start + batch_size].unbind(1)
        values = before[pairs]
        values[torch.arange(len(pairs), device=values.device), units] = after[pairs, units]
        yield pairs.cpu().numpy(), units.cpu().numpy(), read(run_from(network, layer, values)) - clean[pairs]
