"""CUR selection: which columns and rows of a pretrained weight become the frozen C and R."""

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from secura.numerics.block_norms import column_norms
from secura.numerics.finite import all_finite

_SMALLEST_SQUARED = 1e-100


def least_important_columns(weight: Float[Tensor, "out in"], count: int) -> Int64[Tensor, " {count}"]:
    """Find the columns of a weight matrix that matter least, judged by L2 norm.

    A column holds everything one input feature adds to the layer's output. SECURA
    builds its frozen factor C from the columns of smallest norm, so that training
    moves the directions the pretrained model leans on least.

    Args:
        weight: pretrained weight W, shape (out, in), any floating dtype.
        count: how many columns to return; a number of columns, not a fraction.

    Returns:
        Column indices, shape (count,), on the device of `weight`, smallest norm
        first; columns of equal norm keep their order in W.

    Raises:
        ValueError: if `count` is outside 1..in, or `weight` holds NaN or infinity.

    Note:
        Norms are summed in float32 or wider. A 4096×4096 Gaussian weight in bfloat16
        has 14 distinct bfloat16 column norms and 4073 distinct float32 ones.

    Source:
        SECURA, arXiv:2502.18168v4, column selection. The released code ranks by
        1/norm; the norm itself gives the same order and also holds for a zero column.

    Example:
        >>> weight = torch.tensor([[3.0, 0.0, 1.0], [4.0, 0.5, 0.0]])  # norms 5, 0.5, 1
        >>> least_important_columns(weight, count=2)
        tensor([1, 2])
    """
    return _column_norms(weight, count).argsort(stable=True)[:count]


def least_important_rows(weight: Float[Tensor, "out in"], count: int) -> Int64[Tensor, " {count}"]:
    """Find the rows that matter least: `least_important_columns` of the transpose."""
    return least_important_columns(weight.T, count)


def sampled_columns(
    weight: Float[Tensor, "out in"], count: int, generator: torch.Generator
) -> Int64[Tensor, " {count}"]:
    """Draw columns without replacement, with probability proportional to 1/importance.

    The importance of a column is its share of the squared Frobenius norm, so an
    unimportant column is drawn often, and an important one now and then.

    Args:
        weight: pretrained weight W, shape (out, in), any floating dtype.
        count: how many columns to draw; a number of columns, not a fraction.
        generator: a CPU generator; the same seed and weight give the same columns.

    Returns:
        Column indices, shape (count,), all different, on the device of `weight`, in the
        order they were drawn.

    Raises:
        ValueError: if `count` is outside 1..in, or `weight` holds NaN or infinity.

    Source:
        CUR-LoRA's inverted importance. Its code draws with replacement and without a
        seed: duplicates waste rank and the adapter cannot be rebuilt. Ours does neither.
    """
    norms = _column_norms(weight, count).to(device="cpu", dtype=torch.float64)
    if norms.max() < _SMALLEST_SQUARED:  # squares would be 0, and so would their floor
        norms = norms / norms.max() if norms.max() > 0 else torch.ones_like(norms)
    importance = norms.square()
    # A zero column would have infinite probability; the floor makes it merely certain to come first.
    inverse = 1 / importance.clamp_min(torch.finfo(torch.float64).eps * importance.max())
    return torch.multinomial(inverse / inverse.sum(), count, generator=generator).to(weight.device)


def sampled_rows(weight: Float[Tensor, "out in"], count: int, generator: torch.Generator) -> Int64[Tensor, " {count}"]:
    """Draw rows with probability proportional to 1/importance: `sampled_columns` of the transpose."""
    return sampled_columns(weight.T, count, generator)


def least_active_columns(
    weight: Float[Tensor, "out in"], input_squares: Float64[Tensor, " in"], count: int
) -> Int64[Tensor, " {count}"]:
    """Find the columns that add least to the layer's output on the inputs it really gets.

    Column j adds W_:j x_j to the output, so its share is ‖W_:j‖ √(E x_j²): a column of small norm that is fed by a
    large input may matter more than one of large norm that is hardly ever fed.

    Args:
        weight: pretrained weight W, shape (out, in), any floating dtype.
        input_squares: E x_j² of each input, shape (in,).
        count: how many columns to return; a number of columns, not a fraction.

    Returns:
        Column indices, shape (count,), on the device of `weight`, the least first; of equal ones in the order of W.

    Raises:
        ValueError: as `least_important_columns`.

    Source:
        secura's own; the score is Wanda's, arXiv:2306.11695, for columns as a whole.
    """
    shares = _column_norms(weight, count).double() * input_squares.to(weight.device).sqrt()
    return shares.argsort(stable=True)[:count]


def least_active_rows(output_squares: Float64[Tensor, " out"], count: int) -> Int64[Tensor, " {count}"]:
    """Find the rows whose output is smallest, by its mean square E y_i², shape (out,); the least first.

    R = W[I, :] is then what the model reads out least, so that a change of C core R is driven by inputs in
    directions in which the base's own outputs are small.

    Raises:
        ValueError: if `count` is outside 1..out.
    """
    if not 1 <= count <= len(output_squares):
        raise ValueError(f"count is {count}, but W has rows 1..{len(output_squares)} to choose from.")
    return output_squares.argsort(stable=True)[:count]


def _column_norms(weight: Float[Tensor, "out in"], count: int) -> Float[Tensor, " in"]:
    """L2 norms in float32 or wider, after the checks that every selection shares."""
    column_count = weight.shape[1]
    if not 1 <= count <= column_count:
        raise ValueError(f"count is {count}, but W has columns 1..{column_count} to choose from.")
    at_least_float32 = torch.promote_types(weight.dtype, torch.float32)
    norms = column_norms(weight, at_least_float32)
    if not all_finite(norms):
        if not all_finite(weight):
            raise ValueError("weight holds NaN or infinity, so its column norms cannot be ranked.")
        # The squares overflow; only shares of the largest matter.
        norms = column_norms(weight.double() / weight.abs().max(), torch.float64)
    return norms
