"""One run of `secura train`: check everything, ask the base, train, ask again, report, save.

`prepare_run` refuses whatever cannot work before any compute is spent; `train_and_report` does
the rest. A run that is interrupted resumes from its last checkpoint, to the bit on a CPU.
"""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from rich.console import Console
from torch import Tensor
from transformers import TrainerCallback

from secura.adapters.dial import layers_without_closed_form
from secura.adapters.dividing import whole_state
from secura.continual.own_text import OwnText
from secura.errors import ConfigError
from secura.evaluation.certificate import Certificate, Point, certificate_as_json
from secura.evaluation.open_answers import ChangedAnswer, most_changed
from secura.evaluation.provenance import provenance
from secura.evaluation.retention import BeforeAndAfter, before_and_after_as_json
from secura.evaluation.scoring import SCORING_VERSION, Model
from secura.experiments.files import MODEL_FOLDER, REPORT_FILE
from secura.experiments.methods.strategies import make_strategy
from secura.experiments.run.choose_rate import with_chosen_rate
from secura.experiments.run.divided import whole_model
from secura.experiments.run.folder import begun
from secura.experiments.run.keep import Choice, Probe, SteerBudget, certificate_of, choose_scale, part_probe
from secura.experiments.run.learn import Learned, learn_task
from secura.experiments.run.looks import evaluations_of
from secura.experiments.run.prepare import PreparedRun
from secura.experiments.run.questions import Answers, ask
from secura.experiments.run.saving import result_folder, save_result, write_merged
from secura.experiments.run.scaled_back import base_weights, scaled_back
from secura.experiments.settings.run import RunConfig
from secura.tasks.question import Question
from secura.training.checkpoints import last_good_checkpoint
from secura.training.evaluations import Look
from secura.training.processes import divides_weights, from_main_process, is_main_process, process_count, sharding
from secura.whole_files import write_folder, write_json


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Mean nats per answer token before and after, lower is better; None where nothing was scored."""

    before: float | None
    """By the base model."""
    after: float | None
    """By the trained model."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a run came to."""

    task: str
    """What the new task is called."""
    new_task: BeforeAndAfter
    """Held-out questions of the new task; none where all answers are too long to match exactly."""
    new_task_loss: Losses
    """On all held-out rows."""
    retention: BeforeAndAfter
    """The retention questions; none where the user named none."""
    retention_loss: Losses
    """On retention rows that cannot be scored by exact match."""
    changed: Sequence[ChangedAnswer]
    """Answers to open prompts, the most changed first; none for the bundled model."""
    scale: float
    """What the learned change was multiplied by before it was saved; 1 unless a share is to be kept."""
    points: Sequence[Point]
    """The scales that were tried; none where no share is to be kept."""
    certificate: Certificate | None
    """Whether that share was shown to be kept; None where none is to be."""
    training_seconds: float
    """Wall-clock time of the steps, and of what was measured between them."""
    looks: Sequence[Look] = ()
    """What was measured between the steps."""
    best_step: int | None = None
    """The step whose model was handed out; None for the last."""
    saved: Path
    """Where the adapter, or the model, is."""
    report: Path
    """The report as JSON."""


def train_and_report(
    run: PreparedRun[RunConfig], console: Console, callbacks: Sequence[TrainerCallback] = ()
) -> RunResult:
    """Ask the base, train, ask the trained model, save the adapter and the report.

    Raises:
        TrainingError: if the loss or a weight becomes NaN or infinite, or Ctrl-C stopped the
            run; the message names the checkpoint to go on from.
    """
    run = with_chosen_rate(run, console)
    with begun(run.folder, run.config, run.record, run.base_record, resume=run.resumes):
        return _train_and_report(run, console, callbacks)


def _train_and_report(run: PreparedRun[RunConfig], console: Console, callbacks: Sequence[TrainerCallback]) -> RunResult:
    if run.resumes and from_main_process(lambda: last_good_checkpoint(run.folder)) != run.resume_from:
        raise ConfigError(f"another process has continued the run in {run.folder} in the meantime; start again.")
    before = from_main_process(lambda: _ask_base(run, console))
    probe = None if run.config.retention.keep is None else part_probe(before.retention, seed=run.config.training.seed)
    known = [answer.question for answer in before.retention if answer.correct] if probe is None else probe.steer
    learned = learn(run, console, callbacks, steer=() if probe is None else probe.steer, known=known)
    trained = whole_state(run.model)
    saved, choice, after = from_main_process(lambda: _save_what_is_kept(run, probe, trained, console))
    certificate = None
    if probe is not None and choice is not None:
        certificate = certificate_of(run, probe, choice, after.retention)
    result = RunResult(
        task=run.task.name,
        new_task=BeforeAndAfter(before=before.new_task, after=after.new_task),
        new_task_loss=Losses(before=before.new_task_loss, after=after.new_task_loss),
        retention=BeforeAndAfter(before=before.retention, after=after.retention),
        retention_loss=Losses(before=before.retention_loss, after=after.retention_loss),
        changed=most_changed(run.prompts, before.said, after.said),
        scale=1.0 if choice is None else choice.scale,
        points=() if choice is None else choice.points,
        certificate=certificate,
        training_seconds=learned.seconds,
        looks=learned.looks,
        best_step=learned.best_step,
        saved=saved,
        report=run.folder / REPORT_FILE,
    )
    if is_main_process():
        write_json(result.report, _report(run, result))
    return result


def learn(
    run: PreparedRun[RunConfig],
    console: Console,
    callbacks: Sequence[TrainerCallback] = (),
    *,
    steer: Sequence[Question] = (),
    known: Sequence[Question] = (),
) -> Learned:
    """Take the steps, or those that are left.

    Args:
        run: what is learned.
        console: where progress is shown.
        callbacks: of the caller's own.
        steer: questions that the base answers right, by which the budget of own_text is steered.
        known: such questions, asked at each evaluation.
    """
    chosen, training = run.config.strategy, run.config.training
    strategy = make_strategy(chosen.name, chosen.settings, seed=training.seed)
    if steer and isinstance(strategy, OwnText) and strategy.fixed_strength is None:
        callbacks = [*callbacks, SteerBudget(run, strategy, steer, console)]
    learned = learn_task(
        run,
        run.task,
        run.model,
        strategy,
        folder=run.folder,
        seed=training.seed,
        task_index=1,  # what the base knows counts as an earlier task
        resume_from=run.resume_from,
        console=console,
        callbacks=callbacks,
        evaluations=evaluations_of(run, known, console),
        report_to=training.report_to,
    )
    if learned.best_step is not None and learned.best_step != run.task.steps:
        console.print(f"the model is that of step {learned.best_step}, the best by {training.best}", highlight=False)
    strategy.prepare_to_serve(run.model)
    if isinstance(strategy, OwnText) and not divides_weights():
        moved = strategy.held_out_divergence(run.model)
        if moved is not None:
            console.print(
                f"on the base's own text that was not used for training, the model moved {moved:.4f} nats a token",
                highlight=False,
                soft_wrap=True,
            )
    return learned


def _ask_base(run: PreparedRun[RunConfig], console: Console) -> Answers:
    with whole_model(run.model, run.config.model, None) as whole:
        return ask(run, whole, console, trained=False)


def _save_what_is_kept(
    run: PreparedRun[RunConfig], probe: Probe | None, trained: dict[str, Tensor] | None, console: Console
) -> tuple[Path, Choice | None, Answers]:
    """Choose how much of what was learned is used, save that much, and ask it; by the main process alone.

    A model that is divided is saved first, and loaded again whole.

    Args:
        run: trained.
        probe: by what is chosen; None where all is used.
        trained: what all processes have gathered of a divided model; see `whole_state`.
        console: where is said what was found.
    """
    whole_change = None if trained is None else _save(run, run.model, 1.0, trained)
    with whole_model(run.model, run.config.model, whole_change) as model:
        base = None if probe is None else base_weights(model, run.config.model)
        choice = None if probe is None else choose_scale(run, model, probe, base, console)
        scale = 1.0 if choice is None else choice.scale
        with scaled_back(model, scale, base):
            saved = whole_change if whole_change is not None and scale == 1 else _save(run, model, scale, None)
            after = ask(run, model, console, trained=True)
    if whole_change is not None and whole_change != saved:
        shutil.rmtree(whole_change)
    return saved, choice, after


def _save(run: PreparedRun[RunConfig], model: Model, scale: float, state: dict[str, Tensor] | None) -> Path:
    """Save the adapter, or the whole model, as it stands at a scale."""
    if scale != 1 and isinstance(model, PeftModel) and layers_without_closed_form(model):
        saved = run.folder / MODEL_FOLDER
        write_merged(saved, model, run.tokenizer)
        return saved
    saved = result_folder(run.folder, model)

    def fill(path: Path) -> None:
        save_result(path, model, run.tokenizer, record=run.base_record, state=state, corda_start=run.corda_start)

    write_folder(saved, fill)
    return saved


def _report(run: PreparedRun[RunConfig], result: RunResult) -> dict[str, Any]:
    return {
        "task": result.task,
        "method": run.config.method.name,
        "steps": run.task.steps,
        "learning_rate": run.learning_rate,
        "trainable_weights": run.trainable_weights,
        "processes": process_count(),
        "weights_divided_by": sharding(),
        "training_seconds": round(result.training_seconds, 3),
        "evaluations": [asdict(look) for look in result.looks],
        "best_step": result.best_step,
        "scale": result.scale,
        "points": [asdict(point) for point in result.points],
        "certificate": None if result.certificate is None else certificate_as_json(result.certificate),
        "new_task": before_and_after_as_json(result.new_task),
        "new_task_nats_per_token": asdict(result.new_task_loss),
        "retention": before_and_after_as_json(result.retention),
        "retention_nats_per_token": asdict(result.retention_loss),
        "open_answers": [asdict(answer) for answer in result.changed],
        "base_fingerprint": run.fingerprint.exact,
        "scoring_version": SCORING_VERSION,
        "seed": run.config.training.seed,
        "config": run.config.model_dump(),
        "provenance": provenance(),
    }
