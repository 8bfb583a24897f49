"""A run as a curve: what it has learned and forgotten at some of its steps, and with its change scaled back.

One run then tells of many points between nothing and all that it learned, so that methods can be
compared where they have learned the same. Forgetting is the rise in nats a token on texts that were
never trained on, and the share lost of the answers that the base gets right. Points are written as they are
measured, and an interrupted run keeps them.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from secura.errors import ConfigError
from secura.evaluation.answer_loss import mean_answer_loss
from secura.evaluation.score_cache import cache_folder
from secura.evaluation.scoring import SCORING_VERSION, Model, score_questions
from secura.experiments.comparison.grid.config import CurveConfig
from secura.experiments.comparison.runs.curve_point import CurvePoint
from secura.experiments.run.prepare import PreparedRun
from secura.experiments.run.questions import base_alone
from secura.experiments.run.scaled_back import base_weights, scaled_back
from secura.experiments.settings.run import RunConfig
from secura.json_text import parsed_json
from secura.tasks.finding import find_tasks
from secura.tasks.question import Item, Question
from secura.tasks.task_items import task_items
from secura.whole_files import write_text

CURVE_FILE = "curve.jsonl"
"""In a run's folder: one point a line."""


class MeasureCurve(TrainerCallback):
    """Measures the points of a run: the base, some steps on the way, and the end."""

    def __init__(self, run: PreparedRun[RunConfig], curve: CurveConfig) -> None:
        """Read the texts.

        Raises:
            InputError: for a text that cannot be read.
        """
        self.run = run
        self.curve = curve
        self.texts = {
            task.name: task_items(task, count=curve.text_rows, seed=0) for task in find_tasks(list(curve.texts))
        }
        self.questions = [
            item
            for name, count in curve.questions.items()
            for task in find_tasks([name])
            for item in task_items(task, count=count, seed=0)
            if isinstance(item, Question)
        ]
        self.points = _read(run.folder / CURVE_FILE)

    @cached_property
    def _base(self) -> Mapping[str, Tensor] | None:
        return base_weights(self.run.model, self.run.config.model)

    def measure_end(self) -> None:
        """Measure the trained model at each point of the dial."""
        base = next((point.right for point in self.points if point.step == 0), None)
        for dial in sorted({1.0, *self.curve.dial}, reverse=True):
            self._measure_at(self.run.model, self.run.task.steps, dial, asked=base or ())

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure the model as it was given, unless an earlier attempt has."""
        del args, control, kwargs
        if state.global_step or self._has(0, 0.0):
            return
        # The same for every run of a grid on the same rows, and slow on a CPU; runs that begin together wait for one.
        kept = cache_folder() / "curves" / f"{self._what_is_measured()}.jsonl"
        kept.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{kept}.lock"):
            known = _kept(kept)
            if known is not None:
                self._add(known)
                return
            with base_alone(self.run.model):
                self._measure(self.run.model, 0, 0.0, asked=range(len(self.questions)))
            write_text(kept, _as_lines(self.points[-1:]))

    @override
    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Measure where the grid asks for it."""
        del args, control, model, kwargs
        if state.global_step in self.curve.steps and state.global_step < self.run.task.steps:
            self._measure_at(self.run.model, state.global_step, 1.0)

    def _measure_at(self, model: Model, step: int, dial: float, *, asked: Sequence[int] = ()) -> None:
        if self._has(step, dial):
            return
        with scaled_back(model, dial, None if dial == 1 else self._base):
            self._measure(model, step, dial, asked=asked)

    def _measure(self, model: Model, step: int, dial: float, *, asked: Sequence[int]) -> None:
        point = CurvePoint(
            step=step,
            dial=dial,
            task_nats=self._nats(model, self.run.task.test),
            text_nats={name: self._nats(model, items) or 0.0 for name, items in self.texts.items()},
            right=self._right(model, asked) if asked else None,
        )
        self._add(point)

    def _add(self, point: CurvePoint) -> None:
        self.points.append(point)
        write_text(self.run.folder / CURVE_FILE, _as_lines(self.points))

    def _what_is_measured(self) -> str:
        """A digest of all that decides what the base's point is."""
        of = [
            (SCORING_VERSION, self.run.fingerprint.exact, self.curve.text_tokens),
            [repr(item) for item in self.run.task.test],
            {name: [repr(item) for item in items] for name, items in self.texts.items()},
            [repr(question) for question in self.questions],
        ]
        return hashlib.sha256(json.dumps(of).encode()).hexdigest()

    def _nats(self, model: Model, items: Sequence[Item]) -> float | None:
        size = self.run.config.scoring.batch_size
        return mean_answer_loss(model, self.run.tokenizer, items, max_tokens=self.curve.text_tokens, batch_size=size)

    def _right(self, model: Model, asked: Sequence[int]) -> list[int]:
        """Those of the questions that are answered right."""
        size = self.run.config.scoring.batch_size
        questions = [self.questions[place] for place in asked]
        answers = score_questions(model, self.run.tokenizer, questions, batch_size=size)
        return [place for place, answer in zip(asked, answers, strict=True) if answer.correct]

    def _has(self, step: int, dial: float) -> bool:
        return any(point.step == step and point.dial == dial for point in self.points)


def _as_lines(points: Sequence[CurvePoint]) -> str:
    return "".join(json.dumps(asdict(each)) + "\n" for each in points)


def _kept(path: Path) -> CurvePoint | None:
    """The base's point from the cache; None where there is none, or a damaged one, which is measured again."""
    try:
        (point,) = _points(path)
    except (OSError, ValueError, TypeError):
        return None
    return point if point.step == 0 else None


def _read(path: Path) -> list[CurvePoint]:
    """The points of an earlier attempt.

    Raises:
        ConfigError: if the file is damaged.
    """
    if not path.is_file():
        return []
    try:
        return _points(path)
    except (OSError, ValueError, TypeError) as problem:
        raise ConfigError(f"{path} is damaged ({problem}); delete the run's folder to measure it again.") from problem


def _points(path: Path) -> list[CurvePoint]:
    return [CurvePoint(**parsed_json(line)) for line in path.read_text(encoding="utf-8").splitlines()]
