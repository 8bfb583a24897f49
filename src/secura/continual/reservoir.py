"""A reservoir: a uniform sample of fixed size from a stream of examples, task after task.

    example n (from 1) is kept with probability capacity / n, in place of a random one

After any number of examples each of them is in the buffer with the same probability
(Vitter's algorithm R). Each draw is seeded by its own number, so the buffer after n examples
depends on the seed and the stream alone, and a resumed run needs no generator's state.
"""

import dataclasses
import json
import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from secura.json_text import read_json

ReadRow = Callable[[Mapping[str, Any]], Any]


class Reservoir:
    """A uniform sample of all examples seen."""

    def __init__(self, capacity: int, seed: int = 0) -> None:
        """Start empty.

        Args:
            capacity: how many examples are kept, at least 1.
            seed: fixes which.

        Raises:
            ValueError: if `capacity` is below 1.
        """
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}, but a buffer holds at least 1 example.")
        self.capacity = capacity
        self.seed = seed
        self.seen = 0
        self.rows: list[Any] = []

    def add(self, rows: Iterable[Any]) -> None:
        """Offer examples to the buffer, in order."""
        for row in rows:
            self.seen += 1
            if len(self.rows) < self.capacity:
                self.rows.append(row)
                continue
            place = random.Random(f"{self.seed}:offer:{self.seen}").randrange(self.seen)
            if place < self.capacity:
                self.rows[place] = row

    def draw(self, count: int, number: int) -> list[Any]:
        """`count` examples without repetition, or all there are; `number` names the draw."""
        return random.Random(f"{self.seed}:draw:{number}").sample(self.rows, min(count, len(self.rows)))

    def save(self, path: Path) -> None:
        """Write the buffer as JSON; rows are mappings, or dataclasses of plain values."""
        rows = [dataclasses.asdict(row) if dataclasses.is_dataclass(row) else dict(row) for row in self.rows]  # type: ignore[arg-type]
        path.write_text(json.dumps({"seen": self.seen, "rows": rows}), encoding="utf-8")

    def load(self, path: Path, read_row: ReadRow) -> None:
        """Take up what `save` has written; `read_row` makes a row of its mapping."""
        stored = read_json(path)
        self.seen = int(stored["seen"])
        self.rows = [read_row(row) for row in stored["rows"]]
