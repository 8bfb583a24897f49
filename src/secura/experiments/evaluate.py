"""One run of `secura eval`: one model, scored on tasks of ours, of the user's, or of lm-evaluation-harness.

Tasks and rows are read before the model is, so that a wrong name costs nothing. The file of
scores is written anew, whole, after every task: a run that is stopped keeps what it finished.
"""

import itertools
import json
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from secura.errors import ConfigError, StoppedError
from secura.evaluation.answer_match import rule_as_json
from secura.evaluation.batch_size import BatchSize
from secura.evaluation.lm_eval_bridge import HarnessScore, export_tasks, harness_scores, harness_tasks
from secura.evaluation.provenance import provenance
from secura.evaluation.scoring import SCORING_VERSION
from secura.evaluation.task_score import TaskScore, as_json, from_json
from secura.experiments.asking import AskedTask, ask
from secura.experiments.models.pair import BUNDLED, ReadyModel, model_pair
from secura.file_names import file_name
from secura.json_text import read_json
from secura.one_writer import one_writer
from secura.stop_signals import what_stopped
from secura.tasks.finding import find_tasks
from secura.tasks.question import Item, PlainText
from secura.tasks.task import Task
from secura.tasks.task_items import chance_level, task_items, task_version_key
from secura.training.library_output import silence_libraries
from secura.whole_files import write_json

SCORES_FILE = "evaluation.json"

_KNOWLEDGE = "knowledge"
"""What the bundled model is asked where no task is named."""


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """What to score, and on what."""

    model: str | None = None
    """Folder or hub id of the model; None is the bundled one."""
    adapter: str | None = None
    """Folder of an adapter of any PEFT method, or of a run of `secura train`."""
    tasks: tuple[str, ...] = ()
    """Tasks, groups or task files."""
    harness_tasks: tuple[str, ...] = ()
    """Tasks of lm-evaluation-harness."""
    harness_chat: bool = False
    """Whether the harness puts its prompts through the chat template."""
    data: Path | None = None
    """Folder with the rows of tasks; None for the environment's, or the hub."""
    count: int | None = None
    """Items of each task at most; None is all."""
    seed: int = 0
    """Draws the items of our tasks; the harness takes the first ones."""
    batch_size: int | Literal["auto"] = "auto"
    """Rows at once."""
    out: Path | None = None
    """Folder for the file of scores; None is a new one in runs/."""

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise ConfigError(f"--count is {self.count}; give a number of items per task, at least 1.")
        if self.batch_size != "auto" and self.batch_size < 1:
            raise ConfigError(f"--batch-size is {self.batch_size}; give a number of rows, at least 1, or auto.")
        if self.seed < 0:
            raise ConfigError(f"--seed is {self.seed}; give a whole number, at least 0.")


@dataclass(kw_only=True)
class EvalResult:
    """What has been scored so far."""

    file: Path
    """Where it is written."""
    scores: list[TaskScore] = field(default_factory=list)
    """Of our tasks, in the order asked."""
    chances: list[float | None] = field(default_factory=list)
    """What blind guessing scores on each; None where nothing is chosen."""
    harness: list[HarnessScore] = field(default_factory=list)
    """Of the harness's tasks."""
    notes: list[str] = field(default_factory=list)
    """What the user should know, such as prompts that were cut."""


def evaluate(settings: EvalSettings, console: Console) -> EvalResult:
    """Score a model.

    Raises:
        InputError: for a task, a file, a model or an adapter that cannot be used.
        StoppedError: if Ctrl-C stopped the run, naming what was finished.
        SecuraError: for a model that answers NaN.
    """
    silence_libraries()
    asked = asked_items(settings)
    of_harness = harness_tasks(settings.harness_tasks) if settings.harness_tasks else []
    result = EvalResult(file=_scores_file(settings))
    with one_writer(result.file.parent), _ready_model(settings, result.notes) as ready:
        record = _record(settings, ready)
        size = BatchSize(settings.batch_size, ready.model.device)
        before = _finished_before(result.file, record, asked)
        if before:
            console.print(
                f"{len(before)} of {len(asked)} tasks are scored in {result.file}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )

        def keep(score: TaskScore) -> None:
            result.chances.append(chance_level(asked[len(result.scores)].items))
            result.scores.append(score)
            result.notes.extend(_remarks(score))
            _write(result, record, asked, complete=len(result.scores) == len(asked) and not of_harness)

        try:
            for score in before:
                keep(score)
            ask(ready, asked[len(before) :], "the model", console, lambda _, score: keep(score), size=size)
            if of_harness:
                result.harness = _ask_harness(ready, of_harness, settings, console)
                _write(result, record, asked, complete=True)
        except KeyboardInterrupt:
            go_on = f"the same command with --out {shlex.quote(str(result.file.parent))} goes on"
            done = len(result.scores)
            kept = f"; {done} finished, their scores are in {result.file}; {go_on}" if done else "; nothing is kept"
            total = len(asked) + len(settings.harness_tasks)
            raise StoppedError(f"stopped by {what_stopped()} at task {done + 1} of {total}{kept}.") from None
    return result


def export(settings: EvalSettings, folder: Path) -> list[str]:
    """Write the tasks with their items for lm-evaluation-harness; no model is loaded.

    Returns:
        What the tasks are called there.
    """
    if settings.harness_tasks:
        raise ConfigError("--lm-eval names the harness's own tasks, which need no export; leave it out.")
    if folder.is_file():
        raise ConfigError(f"--export-lm-eval {folder} is a file; name a folder.")
    silence_libraries()
    return export_tasks([(each.task, each.items) for each in asked_items(settings)], folder)


def asked_items(settings: EvalSettings) -> list[AskedTask]:
    """Every task with its items.

    Raises:
        ConfigError: for an unknown task, or none at all for a model that is not the bundled one.
        DataError: for rows that cannot be found or read.
    """
    names: Sequence[str] = settings.tasks
    if not names and not settings.harness_tasks:
        if settings.model is not None:
            raise ConfigError(
                "nothing to score: name tasks with --tasks, such as gsm8k,logiqa or the groups mc and bbh, "
                "or tasks of lm-evaluation-harness with --lm-eval."
            )
        names = (_KNOWLEDGE,)
    tasks = find_tasks(names) if names else []
    return [
        AskedTask(task=task, items=task_items(task, data=settings.data, count=settings.count, seed=settings.seed))
        for task in tasks
    ]


def _scores_file(settings: EvalSettings) -> Path:
    if settings.out is not None:
        if settings.out.is_file():
            raise ConfigError(f"--out {settings.out} is a file; name a folder.")
        file = settings.out / SCORES_FILE
        if file.exists() and _stored(file).get("complete", True):
            raise ConfigError(f"--out {settings.out} holds scores already; name another folder.")
        return file
    scored = Path(settings.adapter or settings.model or BUNDLED)
    parts = [part for part in scored.parts if part not in ("adapter", "model", "runs", ".", "..", "/")]
    first = Path("runs") / "-".join(["eval", *map(file_name, parts[-1:])])
    free = (first.with_name(f"{first.name}-{number}") for number in itertools.count(2))
    return next(folder for folder in itertools.chain([first], free) if not folder.exists()) / SCORES_FILE


def _stored(file: Path) -> dict[str, Any]:
    """What a file of scores holds; nothing where there is none."""
    if not file.exists():
        return {}
    try:
        return dict(read_json(file))
    except (OSError, ValueError, TypeError) as problem:
        raise ConfigError(
            f"{file} is damaged, so the scoring cannot continue; name another folder with --out."
        ) from problem


def _finished_before(file: Path, record: dict[str, Any], asked: Sequence[AskedTask]) -> list[TaskScore]:
    """The scores that an interrupted run of the same settings has left, in the order asked.

    Raises:
        ConfigError: if they are of another model, or of other questions.
    """
    stored = _stored(file)
    scores = []
    try:
        same = all(_deciding(stored[name]) == _deciding(record[name]) for name in _DECIDING) if stored else True
        for before, each in zip(stored.get("tasks", []), asked, strict=False):
            questions = [json.loads(json.dumps(_question(item))) for item in each.items]
            stored_items = zip(questions, before["items"], strict=True)
            answers = [{name: answer[name] for name in question} for question, answer in stored_items]
            same = same and before["key"] == task_version_key(each.task) and answers == questions
            scores.append(from_json(before, each.items))
    except (ValueError, KeyError, TypeError, AttributeError):
        same = False
    if not same:
        raise ConfigError(f"{file} holds scores of another run; name another folder with --out.")
    return scores


_DECIDING = (
    "model",
    "adapter",
    "adapter_checksum",
    "merged",
    "base_fingerprint",
    "arithmetic",
    "settings",
    "scoring_version",
)
"""What must be the same in a run that goes on with another's scores."""


def _deciding(value: Any) -> Any:
    """A value as JSON gives it back, but for the folder, which may be named in several ways."""
    if isinstance(value, dict):
        value = {name: each for name, each in value.items() if name != "out"}
    return json.loads(json.dumps(value))


@contextmanager
def _ready_model(settings: EvalSettings, notes: list[str]) -> Iterator[ReadyModel]:
    """The model to score, its adapter merged where it can be."""
    base = settings.model or BUNDLED
    if settings.adapter is None:
        with model_pair(base, base).base() as ready:
            yield ready
        return
    pair = model_pair(base, settings.adapter)
    if not pair.is_adapter:
        raise ConfigError(f"--adapter {settings.adapter} holds no adapter but a model; name it with --model.")
    pair.check()
    with pair.tuned() as ready:
        notes.extend(pair.notes)
        if not ready.merged:
            notes.append("the adapter's method cannot be merged into the weights, so it was scored beside them")
        yield ready


def _ask_harness(
    ready: ReadyModel, tasks: Sequence[Any], settings: EvalSettings, console: Console
) -> list[HarnessScore]:
    began, names = time.monotonic(), settings.harness_tasks
    console.print(f"lm-evaluation-harness: {', '.join(names)}", highlight=False, markup=False)
    scores = harness_scores(
        ready.model,
        ready.tokenizer,
        tasks,
        batch_size=settings.batch_size,
        count=settings.count,
        chat_template=settings.harness_chat,
    )
    console.print(f"lm-evaluation-harness: done in {time.monotonic() - began:.0f} s", highlight=False)
    return scores


def _remarks(score: TaskScore) -> list[str]:
    remarks = []
    if score.truncated:
        remarks.append(f"{score.task}: {score.truncated} of {len(score.items)} answers were cut at the limit of tokens")
    if score.prompts_cut:
        remarks.append(
            f"{score.task}: {score.prompts_cut} of {len(score.items)} prompts were cut at the beginning to fit the "
            "context"
        )
    return remarks


def _record(settings: EvalSettings, ready: ReadyModel) -> dict[str, Any]:
    """What the scores were made with."""
    made_with = provenance()
    if settings.harness_tasks:
        made_with["versions"]["lm_eval"] = _harness_version()
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": settings.model or BUNDLED,
        "adapter": settings.adapter,
        "adapter_checksum": ready.adapter,
        "merged": ready.merged,
        "base_fingerprint": ready.fingerprint,
        "arithmetic": ready.arithmetic,
        "settings": {name: str(value) if isinstance(value, Path) else value for name, value in vars(settings).items()},
        "scoring_version": SCORING_VERSION,
        "provenance": made_with,
    }


def _harness_version() -> str | None:
    from importlib.metadata import PackageNotFoundError

    try:
        return version("lm_eval")
    except PackageNotFoundError:
        return None


def _write(result: EvalResult, record: dict[str, Any], asked: Sequence[AskedTask], *, complete: bool) -> None:
    tasks = [
        _task_as_json(each.task, each.items, score, chance)
        for each, score, chance in zip(asked, result.scores, result.chances, strict=False)
    ]
    harness = [{**vars(each), "per_item": dict(each.per_item)} for each in result.harness]
    write_json(
        result.file,
        {"complete": complete, **record, "tasks": tasks, "lm_eval": harness, "notes": result.notes},
    )


def _task_as_json(task: Task, items: Sequence[Item], score: TaskScore, chance: float | None) -> dict[str, Any]:
    stored = as_json(score)
    return {
        **{name: value for name, value in stored.items() if name != "items"},
        "key": task_version_key(task),
        "chance": chance,
        "items": [{**_question(item), **answer} for item, answer in zip(items, stored["items"], strict=True)],
    }


def _question(item: Item) -> dict[str, Any]:
    if isinstance(item, PlainText):
        return {"family": item.family, "text": item.text}
    choices = {"choices": list(item.choices)} if item.choices else {}
    return {"family": item.family, "prompt": item.prompt, "right": item.answer, **choices, **rule_as_json(item)}
