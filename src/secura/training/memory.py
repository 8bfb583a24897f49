"""How much memory a run holds, of the GPU it trains on or of this process; and what is said when it runs out."""

import re

import torch

_SAID_WHEN_FULL = ("out of memory", "can't allocate memory", "not enough memory", "cublas_status_alloc_failed")
_ASKED = re.compile(r"tried to allocate ([\d.]+) (bytes|[KMGT]?i?B)", re.IGNORECASE)
_CAPACITY = re.compile(r"total capacity of ([\d.]+ [KMGT]?i?B)")


def memory_in_use_mb(device: torch.device) -> float:
    """Peak GPU memory allocated so far, or the process's resident memory now, in MB of 10⁶ bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    import psutil  # a dependency of accelerate, hence always there

    return psutil.Process().memory_info().rss / 1e6


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or in main memory.

    On Linux, main memory seldom says so: the system ends the process instead.
    """
    if isinstance(problem, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(problem).lower()
    return isinstance(problem, RuntimeError) and any(said in text for said in _SAID_WHEN_FULL)


def out_of_memory_sentence(problem: BaseException) -> str | None:
    """What ran out, how much was asked for, and the way out, where an error says that memory ran out; None elsewhere.

    The allocator's own text is a paragraph about its settings, which seldom help.
    """
    if not is_out_of_memory(problem):
        return None
    text = str(problem)
    in_main_memory = isinstance(problem, MemoryError) or "cpu" in text.lower()
    asked, capacity = _ASKED.search(text), _CAPACITY.search(text)
    said = f"{'main memory' if in_main_memory else 'GPU memory'} ran out"
    if asked is not None:
        number, unit = asked.groups()
        said += f" when {float(number) / 1e9:,.1f} GB" if unit == "bytes" else f" when {number} {unit}"
        said += " more were asked for"
    if capacity is not None:
        said += f", of {capacity[1]} in all"
    return (
        f"{said}; take smaller batches (training.batch_size, with training.gradient_accumulation to make up for it; "
        "scoring.batch_size for questions), set training.gradient_checkpointing, lower data.max_length, or choose a "
        "smaller model."
    )
