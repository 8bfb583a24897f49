"""A sample of every weight of a base model, by which an adapter knows the whole of it again.

Reading a whole model costs as much as loading it. Another model, or this one trained on, differs in nearly every row
of its matrices, so one value of each row tells: of a matrix with n columns every (n - 1)th value is taken, which steps
through the columns and leaves out no row. Vectors, such as norms and biases, are taken whole.
"""

from collections.abc import Collection, Iterator
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from secura.adapters.sharding import is_sharded

_READ = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""Types that are read. What is packed, such as 4-bit weights, is not, and may be plain where the adapter is used."""
_LONGEST_VECTOR = 1 << 20
_AROUND = (BaseTunerLayer, AuxiliaryTrainingWrapper)


def base_sample(model: nn.Module, *, but: Collection[str] = ()) -> Tensor | None:
    """One value of each row of each matrix, and all of each vector, in the order of the model's modules.

    Args:
        model: the base; adapters that it may carry are left out.
        but: ends of names of modules that an adapter trains and saves whole; they are left out.

    Returns:
        The values in the widest type that they are held in, shape (count,), on the CPU; None where a weight is
        divided, packed, offloaded or on the meta device, or an adapter is merged into it.
    """
    parts, seen = [], set()
    for module in _base_modules(model, tuple(but)):
        if isinstance(module, BaseTunerLayer) and module.merged:
            return None
        for parameter in () if isinstance(module, _AROUND) else module._parameters.values():
            if parameter is None or id(parameter) in seen:  # tied
                continue
            seen.add(id(parameter))
            if parameter.is_meta or is_sharded(parameter):
                return None
            values = parameter.detach()
            if type(values) is not Tensor or values.dtype not in _READ:
                return None
            if values.numel():
                parts.append(_sampled(values))
    if not parts:
        return None
    if len({part.device for part in parts}) > 1:
        parts = [part.cpu() for part in parts]
    return torch.cat(parts).cpu()


def _sampled(values: Tensor) -> Tensor:
    step = values.shape[-1] - 1 if values.dim() > 1 else values.numel() // _LONGEST_VECTOR
    values, step = values.contiguous(), max(step, 1)
    return values.as_strided((-(-values.numel() // step),), (step,))


def _base_modules(model: nn.Module, but: tuple[str, ...]) -> Iterator[nn.Module]:
    """A model's own modules, in one order whether or not it carries adapters, and what adapters put around them."""
    to_come = [("", model)]
    while to_come:
        name, module = to_come.pop()
        if but and name.endswith(but):
            continue
        yield module
        if isinstance(module, _AROUND):
            inner: Any = module.base_layer if isinstance(module, BaseTunerLayer) else module.original_module
            to_come.append((name, inner))
            continue
        prefix = f"{name}." if name else ""
        to_come += [(prefix + each, child) for each, child in reversed(module._modules.items()) if child is not None]
