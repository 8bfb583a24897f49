from typing import Any

import pytest
import torch

from secura.training.fast_precision import fast_precision


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, "as-stored"),
        ({"avx2": True, "avx512_bf16": True, "amx_bf16": False}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
        ({"arm_bf16": True}, "bf16"),
        ({}, "as-stored"),
    ],
)
def test_a_processor_computes_in_bfloat16_only_with_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, Any], expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert fast_precision(torch.device("cpu")) == expected


@pytest.mark.parametrize(("has", "expected"), [(True, "bf16"), (False, "as-stored")])
def test_an_older_torch_is_asked_as_it_answers(monkeypatch: pytest.MonkeyPatch, has: bool, expected: str) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has)
    assert fast_precision(torch.device("cpu")) == expected


@pytest.mark.parametrize(("has", "expected"), [(True, "bf16"), (False, "as-stored")])
def test_a_gpu_that_only_imitates_bfloat16_computes_as_stored(
    monkeypatch: pytest.MonkeyPatch, has: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has or including_emulation)
    assert fast_precision(torch.device("cuda")) == expected
    assert fast_precision(torch.device("meta")) == "as-stored"
