import pytest
from fuzz_adapters import fuzz


def test_a_damaged_folder_is_refused_with_a_reason_or_gives_the_same_bits() -> None:
    counts, faults = fuzz(80, seed=11)
    assert faults == []
    assert counts["refused"] > 20


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [0, 1])
def test_so_are_many(seed: int) -> None:
    _, faults = fuzz(2000, seed=seed)
    assert faults == []
