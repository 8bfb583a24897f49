import hashlib
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import xxhash
from torch import Tensor

from secura.adapters.fingerprint import WeightDigests, fingerprint_from_text, fingerprint_text


@pytest.fixture
def digests_taken(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many digests have been computed so far."""
    taken = []
    xxh3 = xxhash.xxh3_64_digest

    def counted(raw: Any) -> bytes:
        taken.append(1)
        return xxh3(raw)

    monkeypatch.setattr(xxhash, "xxh3_64_digest", counted)
    return lambda: len(taken)


def draw_weight(seed: int = 0) -> Tensor:
    return torch.randn(17, 33, generator=torch.Generator().manual_seed(seed))


def fingerprint(weight: Tensor) -> Tensor:
    return WeightDigests().fingerprint(lambda: nullcontext(weight))


def match(stored: Tensor, weight: Tensor) -> bool:
    return WeightDigests().match(stored, lambda: nullcontext(weight))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_equal_weights_match_and_others_do_not(dtype: torch.dtype) -> None:
    weight, other = draw_weight().to(dtype), draw_weight(seed=1).to(dtype)
    assert fingerprint(weight).shape == (4,)
    assert match(fingerprint(weight), weight.clone())
    assert not match(fingerprint(weight), other)


def test_one_flipped_last_bit_is_noticed() -> None:
    weight = draw_weight()
    touched = weight.clone()
    touched[3, 4] = torch.nextafter(touched[3, 4], torch.tensor(10.0))
    assert not match(fingerprint(weight), touched)


@pytest.mark.parametrize("other", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("float32_first", [True, False])
def test_a_float32_checkpoint_loaded_in_another_dtype_still_matches(other: torch.dtype, float32_first: bool) -> None:
    stored, present = (torch.float32, other) if float32_first else (other, torch.float32)
    weight = draw_weight()
    assert match(fingerprint(weight.to(stored)), weight.to(present))
    assert not match(fingerprint(weight.to(stored)), draw_weight(seed=1).to(present))


def test_the_fingerprint_does_not_depend_on_the_memory_layout() -> None:
    weight = draw_weight()
    assert torch.equal(fingerprint(weight), fingerprint(weight.T.contiguous().T))


def test_a_fingerprint_that_an_earlier_version_has_saved_matches_and_is_saved_again() -> None:
    weight = torch.arange(6.0).reshape(2, 3) / 7
    parts = [2]
    for values in (weight, weight.bfloat16(), weight.half()):
        raw = bytes(values.view(torch.uint8).flatten().tolist())
        parts.append(int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little", signed=True))
    earlier = torch.tensor(parts)
    digests = WeightDigests()
    digests.fingerprint(lambda: nullcontext(weight))
    assert digests.match(earlier, lambda: nullcontext(weight))
    assert torch.equal(digests.fingerprint(lambda: nullcontext(weight)), earlier)
    assert match(earlier, weight.bfloat16())
    assert not match(earlier, weight + 1)
    assert not match(earlier, weight.bfloat16() + 1)
    assert digests.match(fingerprint(weight), lambda: nullcontext(weight))


def test_the_fingerprint_of_a_weight_is_always_the_same() -> None:
    weight = torch.arange(6.0).reshape(2, 3) / 7
    assert fingerprint(weight).tolist() == [10, -3586247190420522976, -2882851313783218414, -2605461369565497657]


def test_text_gives_the_fingerprint_back() -> None:
    expected = fingerprint(draw_weight())
    assert torch.equal(fingerprint_from_text(fingerprint_text(expected)), expected)


@pytest.mark.parametrize(("dtype", "in_full"), [(torch.float32, 3), (torch.bfloat16, 2), (torch.float16, 2)])
def test_a_weight_is_digested_once_for_a_match_and_never_again_for_its_fingerprint(
    dtype: torch.dtype, in_full: int, digests_taken: Callable[[], int]
) -> None:
    weight = draw_weight().to(dtype)
    stored = fingerprint(weight)
    assert digests_taken() == in_full
    digests = WeightDigests()
    for _ in range(2):
        assert digests.match(stored, lambda: nullcontext(weight))
    assert torch.equal(digests.fingerprint(lambda: nullcontext(weight)), stored)
    assert digests_taken() == in_full + 1


def test_a_match_in_another_dtype_never_takes_over_what_was_stored() -> None:
    weight = draw_weight()
    digests = WeightDigests()
    assert digests.match(fingerprint(weight), lambda: nullcontext(weight.bfloat16()))
    assert torch.equal(digests.fingerprint(lambda: nullcontext(weight.bfloat16())), fingerprint(weight.bfloat16()))
