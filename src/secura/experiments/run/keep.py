"""A share to keep: what `retention.keep` does before, while and after a run learns.

The questions that the base answers right are parted once. *Steer* questions are asked while the model
trains and move the budget of the strategy own_text. *Select* questions choose how much of what was
learned is used. *Certify* questions are asked of the chosen model alone, and certify it.

Of several processes the main one alone asks, and all go on by what it was answered: the same budget, the
same choice, the same certificate.

Source:
    docs/retention.md has the design; the parts are `secura.continual.steering`,
    `secura.adapters.dial`, `secura.evaluation.probe_split` and `secura.evaluation.certificate`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from secura.adapters.dividing import whole_state
from secura.continual.own_text import OwnText
from secura.continual.steering import Steering
from secura.evaluation.answer_loss import mean_answer_loss
from secura.evaluation.certificate import Certificate, Point, certify, choose_point, not_certified
from secura.evaluation.dial_points import ask_between
from secura.evaluation.merged import merged_for_scoring
from secura.evaluation.probe_split import split_probe
from secura.evaluation.scoring import Model, ScoredAnswer, score_questions
from secura.evaluation.tally import CONFIDENCE
from secura.experiments.run.divided import whole_model
from secura.experiments.run.prepare import PreparedRun
from secura.experiments.run.rows import SELECT, STEER
from secura.experiments.run.saving import save_result
from secura.experiments.run.scaled_back import scaled_back
from secura.experiments.settings.run import RunConfig
from secura.json_text import parsed_json
from secura.tasks.question import Question
from secura.training.checkpoint_folder import checkpoint_folder
from secura.training.processes import from_main_process
from secura.whole_files import write_json

_SCALES = (1.0, 0.75, 0.5, 0.25)
"""How much of what was learned is tried, in this order."""
_REFINED = 2
"""Points that are tried between the last that keeps enough and the first that does not."""

_STATE_FILE = "steering.json"


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The questions that the base answers right, by what they are for."""

    steer: Sequence[Question]
    """Asked while the model trains."""
    select: Sequence[Question]
    """Asked of each candidate."""
    certify: Sequence[int]
    """Asked once; as places among all answers."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How much of what was learned is used, and why."""

    scale: float
    """What the learned change is multiplied by."""
    points: Sequence[Point]
    """Every candidate that was asked."""
    refused: Certificate | None
    """Why nothing can be certified, where that is known by now."""


def part_probe(answers: Sequence[ScoredAnswer], *, seed: int) -> Probe:
    """Part what the base answered right.

    Args:
        answers: the base's, to every question of what is to be kept.
        seed: draws the parting.
    """
    right = [place for place, answer in enumerate(answers) if answer.correct]
    parts = split_probe([answers[place].question.family for place in right], seed=seed, steer=STEER, select=SELECT)
    steer, select = ([answers[right[index]].question for index in part] for part in (parts.steer, parts.select))
    return Probe(steer=steer, select=select, certify=[right[index] for index in parts.certify])


class SteerBudget(TrainerCallback):
    """Asks the steer questions now and then, and moves what divergence own_text allows."""

    def __init__(
        self, run: PreparedRun[RunConfig], strategy: OwnText, questions: Sequence[Question], console: Console
    ) -> None:
        assert run.config.retention.keep is not None
        self.run, self.strategy, self.questions, self.console = run, strategy, questions, console
        self.steering = Steering(keep=run.config.retention.keep, steps=run.task.steps)
        self._kept: float | None = None  # in percent, until it is logged

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take up what a resumed run had found."""
        del args, control, kwargs
        if state.global_step and self.run.resume_from is not None:
            stored = (self.run.resume_from / _STATE_FILE).read_text(encoding="utf-8")
            self.steering.load_state_dict(parsed_json(stored))

    @override
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Look, where it is due."""
        del args, control, kwargs
        if not self.steering.is_due(state.global_step):
            return
        trained = whole_state(self.run.model)
        lost = from_main_process(lambda: self._lost(trained))
        self._kept = 100 - 100 * lost / len(self.questions)
        budget = self.strategy.budget
        budget.set_nats(budget.nats * self.steering.look(lost, len(self.questions)))
        self.console.print(
            f"step {state.global_step}: {lost} of {len(self.questions)} steer questions lost; the model may now move "
            f"{budget.nats:.4f} nats a token",
            highlight=False,
            soft_wrap=True,
        )

    def _lost(self, trained: dict[str, Tensor] | None) -> int:
        """How many of the questions are answered wrong now."""
        with _as_it_is(self.run, trained) as model, merged_for_scoring(model):
            return len(self.questions) - _still_right(self.run, model, self.questions)

    @override
    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Log what was found at this step."""
        del args, state, control, kwargs
        if logs is not None and "loss" in logs and self._kept is not None:
            logs["steer_kept"] = self._kept
            self._kept = None

    @override
    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Store what was found in the checkpoint that has just been written."""
        del control, kwargs
        if args.should_save:
            write_json(checkpoint_folder(args, state) / _STATE_FILE, self.steering.state_dict())


def choose_scale(
    run: PreparedRun[RunConfig], model: Model, probe: Probe, base: Mapping[str, Tensor] | None, console: Console
) -> Choice:
    """Find out how much of what was learned may be used.

    All of it is asked first, then less and less until enough is kept, then points between the last two.

    Args:
        run: its settings and rows.
        model: as it was trained, whole.
        probe: the parted questions.
        base: the base's weights, where all of them are trained.
        console: where is said what was found.
    """
    keep = run.config.retention.keep
    assert keep is not None
    points: dict[float, Point] = {}

    def ask(scale: float) -> None:
        with scaled_back(model, scale, base), merged_for_scoring(model):
            gain, kept = _gain(run, model), _still_right(run, model, probe.select)
        points[scale] = Point(scale=scale, gain=0.0 if gain is None else gain, kept=kept)
        console.print(
            f"at {scale:g} of what was learned: {kept} of {len(probe.select)} select questions kept"
            + ("" if gain is None else f", the new task costs {-gain:.3f} nats a token"),
            highlight=False,
            soft_wrap=True,
        )

    def enough(scale: float) -> bool:
        return choose_point([points[scale]], len(probe.select), keep) is not None

    for scale in _SCALES:
        ask(scale)
        if enough(scale):
            break
    ask_between(points, ask, enough, times=_REFINED)
    in_order = [points[scale] for scale in sorted(points)]
    refused = not_certified(in_order, **_known(run, probe))
    if refused is not None and refused.scale is not None:
        return Choice(scale=refused.scale, points=in_order, refused=refused)
    chosen = choose_point(in_order, len(probe.select), keep)
    return Choice(scale=1.0 if chosen is None else chosen.scale, points=in_order, refused=refused)


def certificate_of(
    run: PreparedRun[RunConfig], probe: Probe, choice: Choice, answers: Sequence[ScoredAnswer]
) -> Certificate:
    """The one look at the certify questions.

    Args:
        run: which share is to be kept.
        probe: the parted questions.
        choice: how much of what was learned is used.
        answers: of the model that is handed out, to every question.
    """
    if choice.refused is not None:
        return choice.refused
    kept = sum(answers[place].correct for place in probe.certify)
    return certify(choice.scale, kept, points=len(choice.points), **_known(run, probe))


def _known(run: PreparedRun[RunConfig], probe: Probe) -> dict[str, Any]:
    return {
        "keep": run.config.retention.keep,
        "confidence": CONFIDENCE,
        "seed": run.config.training.seed,
        "select_items": len(probe.select),
        "items": len(probe.certify),
    }


@contextmanager
def _as_it_is(run: PreparedRun[RunConfig], trained: dict[str, Tensor] | None) -> Iterator[Model]:
    """The model in the midst of its training, whole: a divided one is written and loaded by the main process.

    `trained` is what all processes have gathered of it; see `whole_state`.
    """
    if trained is None:
        yield run.model
        return
    # A new adapter draws its first values, and the training goes on with the draws it would have had.
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with TemporaryDirectory() as folder, torch.random.fork_rng(devices):
        save_result(Path(folder), run.model, run.tokenizer, record=run.base_record, state=trained)
        with whole_model(run.model, run.config.model, Path(folder)) as whole:
            yield whole


def _gain(run: PreparedRun[RunConfig], model: Model) -> float | None:
    """By how much the held-out rows have become likelier, up to a constant; None where there are none."""
    loss = mean_answer_loss(
        model,
        run.tokenizer,
        run.task.test,
        max_tokens=run.max_tokens,
        batch_size=run.config.scoring.batch_size,
    )
    return None if loss is None else -loss


def _still_right(run: PreparedRun[RunConfig], model: Model, questions: Sequence[Question]) -> int:
    answers = score_questions(model, run.tokenizer, questions, batch_size=run.config.scoring.batch_size)
    return sum(answer.correct for answer in answers)
