"""What autograd keeps of a forward pass on a CPU, in bytes; for tests of what is counted without memory."""

import torch
from torch import nn


def saved_on_a_cpu(model: nn.Module, *, batch: int, tokens: int) -> int:
    """Sizes of the distinct storages that a forward pass saves, those of the model left out."""
    own = {each.untyped_storage().data_ptr() for each in (*model.parameters(), *model.buffers())}
    sizes: dict[int, int] = {}
    kept = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept.append(tensor)
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    rows = torch.randint(0, 96, (batch, tokens), generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(input_ids=rows, labels=rows, use_cache=False)
    return sum(sizes.values())
