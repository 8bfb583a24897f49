"""What one training step takes, counted on the meta device: operations, and what autograd keeps.

A step there costs a fraction of a second whatever the size of the model. Of layers that are alike
one takes the step, and counts as often as there are such layers: the sums are those of all of them.
"""

from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count
from transformers import PreTrainedModel

from secura.training.meta_layers import LikeLayer, decoder_layers, signature


@dataclass(frozen=True, kw_only=True)
class StepCount:
    """What one forward and backward pass takes; sizes in bytes."""

    saved_in_layers: int
    """What autograd keeps inside the decoder layers, weights not counted."""
    saved_elsewhere: int
    """What it keeps outside them: embeddings, head, loss."""
    layers: int
    """How many decoder layers there are."""
    forward_flops: int
    """Operations of the forward pass; a multiplication with its addition is two."""
    backward_flops: int
    """Operations of the backward pass."""


def count_step(model: PreTrainedModel | PeftModel, *, batch: int, tokens: int) -> StepCount:
    """Take one step of `batch` rows of `tokens` tokens on a meta model, and count.

    Every row is taken to be as long as the longest, and the loss to fall on every token.
    """
    inputs = torch.zeros(batch, tokens, dtype=torch.long, device="meta")
    # A mask that is ready to use: to make one, transformers would look at values.
    mask = torch.zeros(batch, 1, tokens, tokens, dtype=model.dtype, device="meta")
    layers = decoder_layers(model)
    counts = _Counts(model)
    model.train()
    with counts.of_layers(layers), counts.counter:
        with torch.autograd.graph.saved_tensors_hooks(counts.save, lambda tensor: tensor):
            loss = model(input_ids=inputs, labels=inputs, attention_mask=mask, use_cache=False).loss
        counts.go_on_with(_ELSEWHERE, "backward")
        loss.backward()
        counts.go_on_with(_ELSEWHERE, "backward")
    for weight in model.parameters():
        weight.grad = None
    return StepCount(
        saved_in_layers=sum(counts.times[kind] * size for kind, size in counts.saved.items() if kind != _ELSEWHERE),
        saved_elsewhere=counts.saved[_ELSEWHERE],
        layers=len(layers),
        forward_flops=counts.operations("forward"),
        backward_flops=counts.operations("backward"),
    )


_ELSEWHERE = None
"""What is outside of the decoder layers: embeddings, head, loss."""


class _OperationCounter(TorchDispatchMode):
    """Counts operations by PyTorch's own formulas; its `FlopCounterMode` takes longer, for sums by module."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0

    def taken(self) -> int:
        """Operations since this was last asked."""
        count, self._count = self._count, 0
        return count

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        formula = _FORMULAS.get(func._overloadpacket)
        if formula is not None:
            self._count += formula(*args, **(kwargs or {}), out_val=output)
        return output


def _attention_flops(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _attention_backward_flops(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient.shape, query.shape, key.shape, value.shape)


_FORMULAS = {
    **flop_registry,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}


class _Counts:
    """What a step takes, by kind of layer.

    Two layers are of one kind if they have the same modules with weights of the same shapes,
    and their inputs both take a gradient or both take none.
    """

    def __init__(self, model: nn.Module) -> None:
        self.counter = _OperationCounter()
        self.times: Counter[Hashable] = Counter({_ELSEWHERE: 1})
        self.saved: Counter[Hashable] = Counter()
        self._operations: Counter[tuple[Hashable, str]] = Counter()
        self._now: tuple[Hashable, str] = (_ELSEWHERE, "forward")
        self._known = {each.untyped_storage()._cdata for each in (*model.parameters(), *model.buffers())}
        self._passed_in: set[int] = set()
        self._kept: list[Tensor] = []  # so that no address is used twice
        self._last_output: Any = None

    def operations(self, direction: str) -> int:
        """Operations of one direction, over all layers."""
        return sum(self.times[kind] * count for (kind, way), count in self._operations.items() if way == direction)

    def go_on_with(self, kind: Hashable, direction: str) -> None:
        """Put down to a kind of layer what is computed from here on."""
        self._operations[self._now] += self.counter.taken()
        self._now = kind, direction

    def save(self, tensor: Tensor) -> Tensor:
        """Count a tensor that autograd saves, unless it is the model's own or already counted."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self._kept.append(tensor)
            kind = _ELSEWHERE if storage._cdata in self._passed_in else self._now[0]
            self.saved[kind] += storage.nbytes()
        return tensor

    @contextmanager
    def of_layers(self, layers: nn.ModuleList) -> Iterator[None]:
        """Count each of these layers in this block."""
        signatures = {layer: signature(layer) for layer in layers if not isinstance(layer, LikeLayer)}
        for layer in layers:
            kind = signatures[layer.like if isinstance(layer, LikeLayer) else layer]
            layer.forward = partial(self._layer_forward, layer.forward, kind)
        try:
            yield
        finally:
            for layer in layers:
                del layer.forward

    def _layer_forward(self, forward: Any, signature: Hashable, hidden_states: Tensor, *args: Any, **more: Any) -> Any:
        kind = signature, hidden_states.requires_grad
        self.times[kind] += 1
        if self.times[kind] > 1:  # hands on what it was given, in the form its like has answered in
            last = self._last_output
            return hidden_states if isinstance(last, Tensor) else (hidden_states, *last[1:])
        # Masks and positions are made once for all layers, though a layer is the first to save them.
        given = [each for each in tree_leaves((args, more)) if isinstance(each, Tensor)]
        self._passed_in |= {each.untyped_storage()._cdata for each in given}
        self.go_on_with(kind, "forward")
        output = self._last_output = forward(hidden_states, *args, **more)
        self.go_on_with(_ELSEWHERE, "forward")
        hidden_output: Tensor = output if isinstance(output, Tensor) else output[0]
        if hidden_output.requires_grad:
            # Autograd takes the newest operation first, so all that came later has been taken back by then.
            hidden_output.register_hook(lambda _: self.go_on_with(kind, "backward"))
        return output
