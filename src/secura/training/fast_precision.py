"""Which precision a device computes fast in."""

import torch

from secura.training.trainer import Precision


def fast_precision(device: torch.device) -> Precision:
    """Mixed precision in bfloat16 where the device has the instructions for it, else as the weights are stored.

    A processor without them converts each number there and back: a product then takes several times as long as in
    float32.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "as-stored"
    return "bf16" if device.type == "cpu" and _cpu_has_bfloat16() else "as-stored"


def _cpu_has_bfloat16() -> bool:
    if hasattr(torch.cpu, "get_capabilities"):
        return any("bf16" in name and bool(there) for name, there in torch.cpu.get_capabilities().items())
    return bool(torch.cpu._is_avx512_bf16_supported())  # torch 2.6
