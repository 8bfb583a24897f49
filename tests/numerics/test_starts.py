import pytest
import torch
from references import formulas
from torch.testing import assert_close

from secura.numerics.starts import gaussian, leading_block, principal_block


def gaussian_weight(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(("r", "k"), [(3, 8), (17, 33), (5, 70)])
def test_leading_block_equals_the_loop_reference(r: int, k: int) -> None:
    weight = gaussian_weight(17, 33)
    expected = torch.tensor(formulas.leading_block(weight.tolist(), r, k), dtype=torch.float64)
    assert_close(leading_block(weight, r, k), expected)


def test_the_released_codes_svd_is_the_leading_block() -> None:
    weight = gaussian_weight(17, 33)
    left, singular_values, right = torch.linalg.svd(weight, full_matrices=False)
    assert_close((left[:5] * singular_values) @ right[:, :12], leading_block(weight, 5, 12))


def test_principal_block_spans_the_best_approximation() -> None:
    weight = gaussian_weight(17, 33)
    block = principal_block(weight, 4, 33)
    left, singular_values, right = torch.linalg.svd(weight, full_matrices=False)
    best = (left[:, :4] * singular_values[:4]) @ right[:4]
    projector = block.mT @ torch.linalg.solve(block @ block.mT, block)
    assert_close(weight @ projector, best)


def test_principal_block_does_not_depend_on_the_sign_an_svd_leaves_open() -> None:
    weight = gaussian_weight(6, 9)
    assert (principal_block(weight, 6, 9).gather(1, principal_block(weight, 6, 9).abs().argmax(1, True)) > 0).all()


def test_gaussian_has_the_variance_of_loras_start() -> None:
    draws = gaussian(200, 300, torch.Generator().manual_seed(0))
    bound = 300**-0.5  # PEFT's LoRA draws uniformly within it
    assert_close(draws.std().item(), bound / 3**0.5, rtol=0.02, atol=0)


def test_more_rows_than_the_weight_has_are_refused() -> None:
    with pytest.raises(ValueError, match=r"row_count is 18, but W has rows 1\.\.17"):
        leading_block(gaussian_weight(17, 33), 18, 4)
