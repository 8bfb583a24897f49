"""Tests of what only a GPU shows; `pytest -m gpu` runs them.

`SECURA_TEST_DEVICE=cpu pytest -m gpu` runs all but those of GPU memory on a CPU, which shows that the tests themselves
work.
"""

import os

import pytest
import torch


@pytest.fixture
def device() -> torch.device:
    named = os.environ.get("SECURA_TEST_DEVICE", "cuda")
    if named == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device(named)


@pytest.fixture
def gpu(device: torch.device) -> torch.device:
    if device.type != "cuda":
        pytest.skip("only a CUDA device counts what was allocated")
    return device
