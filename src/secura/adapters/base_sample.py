"""A sample of every weight of a base model, by which an adapter knows the whole of it again.

Reading a whole model costs as much as loading it. Another model, or this one trained on, differs in nearly every row
of its matrices, so one value of each row tells: of a matrix with n columns every (n - 1)th value is taken, which steps
through the columns and leaves out no row. Vectors, such as norms and biases, are taken whole.
"""

from collections.abc import Collection, Iterator

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from secura.adapters.sharding import is_sharded

_READ = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""Types that are read. What is packed, such as 4-bit weights, is not, and may be plain where the adapter is used."""
_LONGEST_VECTOR = 1 << 20


def base_sample(model: nn.Module, *, but: Collection[str] = ()) -> Tensor | None:
    """One value of each row of each matrix, and all of each vector, in the order of the model's modules.

    Args:
        model: the base; adapters that it may carry are left out.
        but: ends of names of modules that an adapter trains and saves whole; they are left out.

    Returns:
        The values in the widest type that they are held in, shape (count,), on the CPU; None where a weight is
        divided, packed, offloaded or on the meta device, or an adapter is merged into it.
    """
    if any(isinstance(module, BaseTunerLayer) and module.merged for module in model.modules()):
        return None
    parts, seen = [], set()
    for parameter in _base_parameters(model, "", tuple(but)):
        if id(parameter) in seen:  # tied
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
    return values.reshape(-1)[:: max(step, 1)]


def _base_parameters(module: nn.Module, name: str, but: tuple[str, ...]) -> Iterator[nn.Parameter]:
    """A model's own parameters, in one order whether or not it carries adapters."""
    if but and name.endswith(but):
        return
    if isinstance(module, BaseTunerLayer):
        yield from _base_parameters(module.get_base_layer(), name, but)
        return
    if isinstance(module, AuxiliaryTrainingWrapper):
        yield from _base_parameters(module.original_module, name, but)
        return
    yield from module.parameters(recurse=False)
    for child_name, child in module.named_children():
        yield from _base_parameters(child, f"{name}.{child_name}" if name else child_name, but)
