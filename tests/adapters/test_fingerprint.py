import pytest
import torch

from secura.adapters.fingerprint import (
    FINGERPRINT_LENGTH,
    fingerprint_from_text,
    fingerprint_text,
    fingerprints_match,
    weight_fingerprint,
)


def draw_weight(seed: int = 0) -> torch.Tensor:
    return torch.randn(17, 33, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_equal_weights_match_and_others_do_not(dtype: torch.dtype) -> None:
    weight, other = draw_weight().to(dtype), draw_weight(seed=1).to(dtype)
    assert weight_fingerprint(weight).shape == (FINGERPRINT_LENGTH,)
    assert fingerprints_match(weight_fingerprint(weight), weight_fingerprint(weight.clone()))
    assert not fingerprints_match(weight_fingerprint(weight), weight_fingerprint(other))


def test_one_flipped_last_bit_is_noticed() -> None:
    weight = draw_weight()
    touched = weight.clone()
    touched[3, 4] = torch.nextafter(touched[3, 4], torch.tensor(10.0))
    assert not fingerprints_match(weight_fingerprint(weight), weight_fingerprint(touched))


@pytest.mark.parametrize("other", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("float32_first", [True, False])
def test_a_float32_checkpoint_loaded_in_another_dtype_still_matches(other: torch.dtype, float32_first: bool) -> None:
    stored, present = (torch.float32, other) if float32_first else (other, torch.float32)
    weight = draw_weight()
    assert fingerprints_match(weight_fingerprint(weight.to(stored)), weight_fingerprint(weight.to(present)))


def test_the_fingerprint_does_not_depend_on_the_memory_layout() -> None:
    weight = draw_weight()
    assert torch.equal(weight_fingerprint(weight), weight_fingerprint(weight.T.contiguous().T))


def test_text_gives_the_fingerprint_back() -> None:
    fingerprint = weight_fingerprint(draw_weight())
    assert torch.equal(fingerprint_from_text(fingerprint_text(fingerprint)), fingerprint)
