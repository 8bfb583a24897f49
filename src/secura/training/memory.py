"""How much memory a run holds: of the GPU it trains on, or of this process."""

import torch


def memory_in_use_mb(device: torch.device) -> float:
    """Peak GPU memory allocated so far, or the process's resident memory now, in MB of 10⁶ bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    import psutil  # a dependency of accelerate, hence always there

    return psutil.Process().memory_info().rss / 1e6
