"""Folding what an adapter has learned under the name of a task, and taking a task out again."""

from typing import Any

from torch import nn

from secura.adapters.secura.layer import SecuraLayer
from secura.errors import FoldError


def fold(model: nn.Module, task: str = "task", *, adapter_name: str | None = None) -> None:
    """Fold what is under training into the adapter's ledger, and let training go on from there.

    Afterwards the factor B (or U) is 0 again. With fold='keep' the model computes what it did
    before; with fold='undamped' the change now acts without its norm. The base weight is
    never written. One r × r matrix a layer is stored (a pair of factors for `low_rank`).

    Args:
        model: a `PeftModel`, or any model that holds SECURA layers.
        task: the name to store it under; folding a task again adds to it.
        adapter_name: which adapter; None is the active one.

    Raises:
        FoldError: if the model has no SECURA layer, is merged, has its adapter offloaded by
            accelerate, or `task` is empty.
    """
    if not task:
        raise FoldError("task is empty; give the fold a name, so that it can be undone.")
    layers = _layers(model, adapter_name)
    for layer, name in layers:  # all of them first, so that nothing is half folded
        layer.refuse_to_fold(name)
    for layer, name in layers:
        layer.fold_(name, task)


def undo(model: nn.Module, task: str, *, adapter_name: str | None = None) -> None:
    """Take a task's change out of the model again, whenever it was folded.

    Under a fixed reference, and for `undamped` folds, the result is exactly the sum of the
    other tasks. Under a moving reference with fold='keep' the folds compose, and the others
    are composed again without it.

    Args:
        model: a `PeftModel`, or any model that holds SECURA layers.
        task: the name it was folded under.
        adapter_name: which adapter; None is the active one.

    Raises:
        FoldError: if no fold has that name, the model is merged, or has no SECURA layer.
    """
    layers = _layers(model, adapter_name)
    for layer, _ in layers:
        layer.refuse_to_undo()
    known = folded_tasks(model, adapter_name=adapter_name)
    if task not in known:
        raise FoldError(f"task {task!r} was never folded; folded so far: {', '.join(known) or 'none'}.")
    for layer, name in layers:
        layer.undo_(name, task)


def folded_tasks(model: nn.Module, *, adapter_name: str | None = None) -> list[str]:
    """Names of the tasks folded so far, first fold first."""
    layer, name = _layers(model, adapter_name)[0]
    return layer._ledger(name).tasks()


def _layers(model: nn.Module, adapter_name: str | None) -> list[tuple[SecuraLayer, str]]:
    found: list[Any] = [module for module in model.modules() if isinstance(module, SecuraLayer)]
    if not found:
        raise FoldError("the model has no SECURA layer; attach an adapter with get_peft_model first.")
    name = adapter_name
    if name is None:
        active = found[0].active_adapters
        if len(active) != 1:
            raise FoldError(f"active adapters are {active}; name the one to use with adapter_name.")
        name = str(active[0])
    layers = [(layer, name) for layer in found if name in layer.secura_change]
    if not layers:
        raise FoldError(f"the model has no SECURA adapter named {name!r}.")
    return layers
