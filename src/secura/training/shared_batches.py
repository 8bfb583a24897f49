"""One batch for all processes: the rows a single process would see, divided among several.

accelerate deals whole batches out in turn, so with `batch_size` divided by the number of
processes they see together what one process sees, in its order. Only the last batch of an
epoch needs help: where it is short, accelerate would repeat rows from the start of the epoch.
Here it is filled up with rows that nothing is learned from.
"""

import math
from collections.abc import Callable, Iterator, Sequence, Sized
from typing import Any

import torch
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import Dataset, Sampler
from typing_extensions import override

from secura.training.examples import Example
from secura.training.warm_up import WarmUpTrainer

_FILLER = -1
"""The index of a row that nothing is learned from."""


class FilledExamples(Dataset[Example]):
    """Examples by index, and a row that nothing is learned from at the index of the filler."""

    def __init__(self, examples: Sequence[Example], pad_token: int) -> None:
        self.examples = examples
        # Two tokens, so that there is one to predict, which the loss leaves out.
        self.filler = Example(tokens=[pad_token, pad_token], learned_from=2)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.filler if index == _FILLER else self.examples[index]


class FilledOrder(Sampler[int]):
    """The order in which a single process draws rows, each epoch filled up to whole batches."""

    def __init__(self, rows: Sized, *, batch_size: int, seed: int, epoch: Callable[[], int]) -> None:
        """Draw as accelerate does for one process.

        Args:
            rows: what is drawn from; its length alone is used.
            batch_size: rows of a batch, over all processes.
            seed: the seed of the data's order.
            epoch: how many times all rows have been drawn; asked whenever they are drawn again. accelerate's own
                `set_epoch` does not come as far as here where it skips the batches before a checkpoint.
        """
        self.drawn = SeedableRandomSampler(rows, generator=torch.Generator(), data_seed=seed)  # type: ignore[arg-type]  # any length will do
        self.fillers = -len(rows) % batch_size
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.drawn) + self.fillers

    def __iter__(self) -> Iterator[int]:
        self.drawn.set_epoch(self.epoch())
        yield from self.drawn
        yield from [_FILLER] * self.fillers


class SharedTrainer(WarmUpTrainer):
    """transformers' `Trainer` of several processes, with the order of rows that one process has."""

    @override
    def _get_train_sampler(self, train_dataset: Any = None) -> FilledOrder:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        arguments = self.args
        rows = arguments.per_device_train_batch_size * arguments.world_size
        steps = math.ceil(math.ceil(len(dataset) / rows) / arguments.gradient_accumulation_steps)  # type: ignore[arg-type]  # ours has a length
        return FilledOrder(
            dataset,  # type: ignore[arg-type]  # the same
            batch_size=rows,
            seed=arguments.seed if arguments.data_seed is None else arguments.data_seed,
            epoch=lambda: self.state.global_step // steps,
        )
