from accelerate.data_loader import BatchSamplerShard, DataLoaderShard, SeedableRandomSampler, skip_first_batches
from torch import Generator
from torch.utils.data import BatchSampler

from secura.training.examples import Example
from secura.training.shared_batches import FilledExamples, FilledOrder

ROWS = [Example(tokens=[number, number], learned_from=1) for number in range(27)]


def of_process(index: int, epoch: int) -> DataLoaderShard:
    order = FilledOrder(ROWS, batch_size=8, seed=0, epoch=lambda: epoch)
    shard = BatchSamplerShard(BatchSampler(order, 4, drop_last=False), num_processes=2, process_index=index)
    return DataLoaderShard(
        FilledExamples(ROWS, 99), batch_sampler=shard, collate_fn=lambda rows: [row.tokens[0] for row in rows]
    )


def test_two_processes_see_the_rows_of_one_and_rows_that_nothing_is_learned_from() -> None:
    alone = SeedableRandomSampler(ROWS, generator=Generator(), data_seed=0)  # type: ignore[arg-type]
    for epoch in (0, 2):
        alone.set_epoch(epoch)
        first, second = (list(of_process(index, epoch)) for index in (0, 1))
        together = [row for pair in zip(first, second, strict=True) for batch in pair for row in batch]
        assert together == [*alone, *[99] * 5]


def test_a_run_that_resumes_within_an_epoch_goes_on_with_the_order_of_that_epoch() -> None:
    whole, resumed = of_process(1, epoch=2), skip_first_batches(of_process(1, epoch=2), 1)
    resumed.set_epoch(2)
    assert list(resumed) == list(whole)[1:]
    assert list(resumed) != list(of_process(1, epoch=0))[1:]
