"""What the factor A begins as. B begins at 0, so whichever start is chosen, D is 0 at first."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def leading_block(
    weight: Float[Tensor, "out in"], row_count: int, column_count: int
) -> Float[Tensor, "{row_count} {column_count}"]:
    """The block W[:row_count, :column_count], columns repeated from the first when W has too few.

    Source:
        SECURA's released code takes an SVD W = U S Vᵀ and multiplies U[:r] S V[:k]ᵀ. That
        product is exactly this block: every singular vector takes part, none is selected,
        and the SVD can be skipped.

    Raises:
        ValueError: if `row_count` is outside 1..out.
    """
    return _wrapped_columns(weight, row_count, column_count, "W")


def principal_block(
    weight: Float[Tensor, "out in"], row_count: int, column_count: int
) -> Float[Tensor, "{row_count} {column_count}"]:
    """The first `column_count` entries of the top `row_count` right singular vectors, scaled by S.

    With W = U S Vᵀ this is (S Vᵀ)[:row_count, :column_count]: what the released code seems
    to have meant by its SVD. Each row has its largest entry positive, so the sign that an
    SVD leaves open is fixed. Columns are repeated from the first when W has too few.

    Raises:
        ValueError: if `row_count` is outside 1..min(out, in).
    """
    at_least_float32 = torch.promote_types(weight.dtype, torch.float32)
    _, singular_values, right = torch.linalg.svd(weight.to(at_least_float32), full_matrices=False)
    peaks = right.gather(1, right.abs().argmax(dim=1, keepdim=True))
    scaled = singular_values[:, None] * right * peaks.sign()
    return _wrapped_columns(scaled, row_count, column_count, "S Vᵀ").to(weight.dtype)


def gaussian(
    row_count: int, column_count: int, generator: torch.Generator
) -> Float[Tensor, "{row_count} {column_count}"]:
    """Normal draws with the variance of LoRA's own start, 1 / (3 · column_count).

    PEFT starts LoRA's A uniformly in ±1/√in, which has that variance. Float32, on the
    generator's device.
    """
    draws = torch.randn(row_count, column_count, generator=generator, device=generator.device)
    return draws / math.sqrt(3 * column_count)


def _wrapped_columns(
    source: Float[Tensor, "rows columns"], row_count: int, column_count: int, name: str
) -> Float[Tensor, "{row_count} {column_count}"]:
    if not 1 <= row_count <= source.shape[0]:
        raise ValueError(f"row_count is {row_count}, but {name} has rows 1..{source.shape[0]}.")
    # A column of zeros would stay dead: with B at 0 as well, neither factor gets a gradient there.
    wrapped = torch.arange(column_count, device=source.device) % source.shape[1]
    return source[:row_count].index_select(1, wrapped)
