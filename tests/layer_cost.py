"""What one adapted layer costs a step, counted by the operations it calls and not timed."""

import weakref
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_PRODUCTS = {
    torch.ops.aten.mm.default: (0, 1),
    torch.ops.aten.mm.out: (0, 1),
    torch.ops.aten.addmm.default: (1, 2),
    torch.ops.aten.addmm.out: (1, 2),
    torch.ops.aten.addmm_.default: (1, 2),
}
"""Products, and where among their arguments the two factors are."""


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """What one layer takes for one step; matrices and products are of its own size, parts of one counted as such."""

    forward: float
    """Products of tokens · out · in multiplications, forward."""
    backward: float
    """The same, backward."""
    passes: float
    """Other operations, forward and backward, that read or write a matrix of the weight's shape."""
    made: float
    """Matrices of the weight's shape that are made."""
    alive: float
    """The most of them at one time."""
    alive_bytes: int
    """The same in bytes."""
    saved: int
    """Bytes that autograd keeps from the forward pass to the backward pass, weights not counted."""


def layer_cost(
    model: nn.Module,
    *,
    tokens: int,
    ranks: set[int],
    dtype: torch.dtype = torch.float32,
    autocast: torch.dtype | None = None,
) -> LayerCost:
    """Take one step of a model of one linear layer called `first`, bare inside of its adapter, and count.

    Args:
        model: with its adapter; the layer's sides, the tokens and the ranks must all be different numbers.
        tokens: rows of the input, which takes a gradient, as one between two layers does.
        ranks: the adapter's ranks; a product over one of them is no product of the layer's own size.
        dtype: of the input.
        autocast: to which type, if to any; on a CPU.
    """
    layer: Any = next(module for name, module in model.named_modules() if name.endswith("first"))
    weight = layer.get_base_layer().weight
    counter = _Counter(weight.shape, tokens, ranks)
    inputs = torch.zeros(tokens, weight.shape[1], dtype=dtype, device=weight.device, requires_grad=True)
    cast = nullcontext() if autocast is None else torch.autocast("cpu", autocast)
    with cast:
        first = layer(inputs)
    first.sum().backward()  # what is kept from one step to the next is there
    own = {_address(each) for each in (*model.parameters(), *model.buffers())}
    saved: dict[int, int] = {}
    held = []

    def keep(tensor: Tensor) -> Tensor:
        if _address(tensor) not in own:
            held.append(tensor)
            saved[_address(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    with counter:
        with cast, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = layer(inputs)
        forward = counter.products
        gradient = torch.zeros_like(output)
        output.backward(gradient)
    return LayerCost(
        forward=round(forward, 6),
        backward=round(counter.products - forward, 6),
        passes=round(counter.passes, 6),
        made=round(counter.made, 6),
        alive=round(counter.most_alive, 6),
        alive_bytes=counter.most_bytes,
        saved=sum(saved.values()),
    )


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class _Counter(TorchDispatchMode):
    def __init__(self, shape: torch.Size, tokens: int, ranks: set[int]) -> None:
        super().__init__()
        self.out, self.width = shape
        self._tokens, self._ranks = tokens, ranks
        self.products = self.passes = self.made = self.most_alive = 0.0
        self.most_bytes = 0
        self._alive: dict[int, tuple[float, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if any(each.alias_info is not None and not each.alias_info.is_write for each in func._schema.returns):
            return found  # a view
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        made = [each for each in tree_leaves(found) if isinstance(each, Tensor)]
        if func in _PRODUCTS and self._is_of_full_size(*(args[place] for place in _PRODUCTS[func])):
            first, second = (args[place] for place in _PRODUCTS[func])
            numbers = first.shape[0] * first.shape[1] * second.shape[1]
            self.products += numbers / (self._tokens * self.out * self.width)
        elif func != torch.ops.aten.index_select.default:  # which reads no more than it returns, some columns or rows
            self.passes += max((self._share(each) for each in (*given, *made)), default=0.0)
        known = {_address(each) for each in given}
        for each in made:
            if _address(each) not in known and (share := self._share(each)):
                self.made += share
                self._watch(each.untyped_storage(), share)
        return found

    def _is_of_full_size(self, first: Tensor, second: Tensor) -> bool:
        return not {*first.shape, *second.shape} & self._ranks

    def _share(self, tensor: Tensor) -> float:
        """How much of a matrix of the weight's shape a tensor is: all of it, some of its rows, or none."""
        if tensor.dim() != 2 or self.width not in tensor.shape or {*tensor.shape} & {1, self._tokens, *self._ranks}:
            return 0.0
        return tensor.numel() / (self.out * self.width)

    def _watch(self, storage: torch.UntypedStorage, share: float) -> None:
        key = storage._cdata
        self._alive[key] = share, storage.nbytes()
        self.most_alive = max(self.most_alive, sum(each for each, _ in self._alive.values()))
        self.most_bytes = max(self.most_bytes, sum(size for _, size in self._alive.values()))
        weakref.finalize(storage, self._alive.pop, key, None)
