import pytest
import torch

from secura.errors import ConfigError
from secura.evaluation.batch_size import BatchSize, in_batches, longest_first, row_cost

CPU = torch.device("cpu")


def _batches_with_room_for(limit: int, costs: list[int], size: BatchSize) -> tuple[list[list[int]], list[list[int]]]:
    """What was tried and what went through, where a batch takes its rows times its longest."""
    tried: list[list[int]] = []
    done: list[list[int]] = []

    def compute(batch: list[int]) -> None:
        tried.append(batch)
        if len(batch) * max(costs[index] for index in batch) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        done.append(batch)

    in_batches(longest_first([[index] for index in range(len(costs))], costs), costs, size, compute)
    return tried, done


def test_where_memory_runs_out_half_as_much_is_tried_until_it_fits_and_every_row_is_done_once() -> None:
    tried, done = _batches_with_room_for(40, [10] * 16, BatchSize(16, CPU))
    assert [len(batch) for batch in tried] == [16, 8, 4, 4, 4, 4]
    assert sorted(index for batch in done for index in batch) == list(range(16))


def test_what_did_not_fit_is_remembered_by_the_next_task_and_shorter_rows_still_go_many_at_a_time() -> None:
    size = BatchSize(16, CPU)
    _batches_with_room_for(40, [10] * 16, size)
    tried, _ = _batches_with_room_for(40, [10] * 4 + [2] * 16, size)
    assert [len(batch) for batch in tried] == [4, 16]


def test_one_row_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        _batches_with_room_for(5, [10, 10], BatchSize("auto", CPU))


def test_other_errors_are_not_taken_for_memory() -> None:
    def compute(batch: list[int]) -> None:
        raise RuntimeError(f"a bug with {batch}")

    with pytest.raises(RuntimeError, match="a bug"):
        in_batches([0, 1], [1, 1], BatchSize(2, CPU), compute)


def test_a_token_costs_its_logits_where_the_vocabulary_is_large() -> None:
    assert row_cost(100, 1, 150_000) == 100
    assert row_cost(100, 100, 150_000) == 1831  # 100 · 150,000 / 8,192


def test_the_order_of_rows_does_not_depend_on_the_order_they_come_in() -> None:
    rows = [[3, 1], [1, 2], [2, 2], [1, 2, 3]]
    order = longest_first(rows, [2, 2, 2, 3])
    assert [rows[index] for index in order] == [[1, 2, 3], [1, 2], [2, 2], [3, 1]]


def test_a_batch_of_no_rows_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch size is 0"):
        BatchSize(0, CPU)
