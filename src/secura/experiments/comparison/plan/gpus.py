"""GPUs that a plan counts hours on."""

from dataclasses import dataclass

UTILISATION = 0.35
"""Share of the peak that a training step reaches. Measured shares of well-tuned training lie at 0.3 to 0.5."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU, by its vendor's data sheet."""

    name: str
    """What it is called."""
    bf16_flops: float
    """Peak operations a second in bfloat16 with float32 sums, without sparsity."""
    memory_bytes: float
    """Its memory."""

    def hours(self, flops: float) -> float:
        """Hours for so many operations: flops / (peak · `UTILISATION`) / 3600."""
        return flops / (self.bf16_flops * UTILISATION) / 3600


GPUS = (
    Gpu(name="A100 80GB", bf16_flops=312e12, memory_bytes=80e9),
    Gpu(name="H100 80GB", bf16_flops=989e12, memory_bytes=80e9),
    Gpu(name="L4", bf16_flops=121e12, memory_bytes=24e9),
)
"""NVIDIA's data sheets: A100 SXM, H100 SXM and L4; where a sheet gives the figure with sparsity, half of it."""
