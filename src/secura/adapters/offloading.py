"""Weights that accelerate keeps away from where a model computes, and how they are brought in.

`cpu_offload`, `disk_offload` and a `device_map` put a meta tensor in a weight's place, and a
hook on its module that brings the weight in for the module's own forward pass. Whoever reads
a weight outside of that pass has to call the hook.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn


def is_offloaded(module: nn.Module) -> bool:
    """Whether a module's own weights are away now, and a hook of accelerate can bring them in."""
    return has_accelerate_hook(module) and any(weight.is_meta for weight in module.parameters(recurse=False))


def has_accelerate_hook(module: nn.Module) -> bool:
    """Whether accelerate has put a hook on a module, which may or may not offload its weights."""
    return "_hf_hook" in module.__dict__


@contextmanager
def brought_in(modules: Iterable[nn.Module]) -> Iterator[None]:
    """The weights of modules in their place for as long as the block lasts; what is written to them is lost."""
    with ExitStack() as stack:
        for module in modules:
            if is_offloaded(module):
                hook: Any = module._hf_hook
                hook.pre_forward(module)
                stack.callback(hook.post_forward, module, None)
        yield
