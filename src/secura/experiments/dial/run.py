"""One run of `secura dial`: points between a base and what was made of it, asked what they gained and what they kept.

The questions of what is to be kept are asked of the base first, and only those it answers right go on: nothing else
can be kept. With a share to be kept they are parted once (`secura.evaluation.probe_split`): one half is asked at every
point and chooses, the other is asked at the chosen point alone and certifies (`secura.evaluation.certificate`).

Every score is kept in the cache, task by task and point by point, so a dial that was stopped goes on where it was.
"""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from secura.errors import ConfigError
from secura.evaluation.certificate import (
    Certificate,
    Point,
    certify,
    check_items,
    check_keep,
    choose_point,
    items_needed,
    not_certified,
    reaches,
)
from secura.evaluation.dial_points import DEFAULT_GRID, ask_between, check_grid
from secura.evaluation.probe_split import split_probe
from secura.evaluation.provenance import provenance
from secura.evaluation.score_cache import ScoreCache, cache_folder
from secura.evaluation.scoring import SCORING_VERSION
from secura.evaluation.tally import CONFIDENCE, Tally
from secura.evaluation.task_score import TaskScore
from secura.experiments.asking import AskedTask, ask
from secura.experiments.data import EVERYDAY
from secura.experiments.dial.own_run import held_out_rows, own_run, own_settings, retained_questions
from secura.experiments.dial.result import DialPoint, DialResult, GainUnit
from secura.experiments.forget.cached_scores import cached_scores
from secura.experiments.forget.run import DEFAULT_COUNT
from secura.experiments.forget.tasks import WORLD_KNOWLEDGE, asked_tasks, tasks_of_rows
from secura.experiments.models.pair import BUNDLED, ModelPair, ReadyModel, model_pair
from secura.experiments.run.certified import stored_certificate
from secura.experiments.run.saving import check_can_be_saved, save_result, save_scaled
from secura.one_writer import one_writer_of
from secura.tasks.finding import is_user_task
from secura.tasks.task_items import task_version_key
from secura.training.library_output import silence_libraries
from secura.whole_files import write_folder

_ASK_MORE = "raise --count, or name more questions with --retain"

_SELECT = 0.5
"""Share of the questions that choose; the rest certify. Nothing is trained, so none steer."""


@dataclass(frozen=True, kw_only=True)
class DialSettings:
    """What to dial, and what to ask."""

    base: str
    """Folder or hub id of the base model, or the word `bundled`."""
    tuned: str
    """Folder of an adapter, of a model, or of a run; or hub id of a model."""
    tasks: tuple[str, ...] = ()
    """Tasks, groups or task files on which gain is measured; empty for a run's own held-out rows."""
    retain: tuple[str, ...] = ()
    """A file of rows, or tasks and groups, of what is to be kept; empty for a run's own, or the base's default."""
    data: Path | None = None
    """Folder with the rows of tasks."""
    count: int = DEFAULT_COUNT
    """Questions of each task, at most."""
    at: tuple[float, ...] = DEFAULT_GRID
    """The points to ask."""
    refine: int = 2
    """Further points to ask where the budget ends between two."""
    keep: float | None = None
    """The share to be kept; None for no choice and no certificate."""
    confidence: float = CONFIDENCE
    """Of the certificate and of intervals."""
    seed: int = 0
    """Draws the questions and parts them."""
    fresh: bool = False
    """Ask anew, whatever the cache holds."""
    write: Path | None = None
    """Folder for the chosen point."""
    merged: bool = False
    """Whether an adapter's point is written as a whole model."""
    trust_tasks: bool = False
    """Whether Python files that the run's config.yaml names as tasks may be run."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"--count is {self.count}; give a number of questions per task, at least 1.")
        if not 0 <= self.refine <= 10:
            raise ConfigError(f"--refine is {self.refine}; give a number of points, from 0 to 10.")
        if not 0.5 <= self.confidence < 1:
            raise ConfigError(
                f"--confidence is {self.confidence}; give a share of at least 0.5 and below 1, such as 0.95."
            )
        if self.seed < 0:
            raise ConfigError(f"--seed is {self.seed}; give a whole number, at least 0.")
        if self.keep is not None:
            check_keep(self.keep)
        points = check_grid(self.at)
        if self.write is None:
            if self.merged:
                raise ConfigError("--merged only applies with --write; name a folder with --write.")
            return
        if self.keep is None and len(points) != 1:
            raise ConfigError("--write needs a point to write: name the share to keep with --keep, or one --at.")
        _refuse_taken(self.write)


def _refuse_taken(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--write {folder} already exists; name a new folder.")


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What is asked, with the base's answers."""

    gain: Sequence[AskedTask]
    base_gain: Sequence[TaskScore]
    select: Sequence[AskedTask]
    certify: Sequence[AskedTask]
    fingerprint: str

    @property
    def select_items(self) -> int:
        return sum(len(each.items) for each in self.select)

    @property
    def certify_items(self) -> int:
        return sum(len(each.items) for each in self.certify)


def dial(settings: DialSettings, console: Console) -> DialResult:
    """Ask the points, choose one, certify it, and write it.

    Raises:
        InputError: for a model, a task, a file, an adapter or a share to keep that cannot be used.
        SecuraError: if a model's score is not a number.
    """
    with nullcontext() if settings.write is None else one_writer_of(settings.write):
        if settings.write is not None:
            _refuse_taken(settings.write)  # again, now that nobody else writes there
        return _dial(settings, console)


def _dial(settings: DialSettings, console: Console) -> DialResult:
    silence_libraries()
    began = time.monotonic()
    run = own_run(settings.tuned)
    if run is not None and not (settings.tasks and settings.retain):
        own_settings(run, trust_tasks=settings.trust_tasks)
    pair = model_pair(settings.base, settings.tuned)
    pair.check()
    if pair.is_adapter and settings.write is not None and not settings.merged:
        check_can_be_saved(pair.adapter().model)
    cache, notes = ScoreCache(folder=cache_folder()), []
    asked = _ask_base(pair, settings, cache, console, notes)
    points = _ask_points(pair, settings, asked, cache, console)
    certificate = None if settings.keep is None else _certificate(pair, settings, asked, points, console)
    scale = certificate.scale if certificate is not None else check_grid(settings.at)[0]
    written = None
    if settings.write is not None and scale is not None:
        _write(pair, scale, settings.write, merged=settings.merged)
        written = settings.write
    base = DialPoint(
        scale=0.0,
        gain=0.0,
        scores=_scores(asked.gain, asked.base_gain),
        kept=_tally(asked.select_items, asked.select_items),
    )
    return DialResult(
        base=settings.base,
        tuned=settings.tuned,
        points=[base, *points],
        unit=_unit(asked.gain),
        keep=settings.keep,
        certificate=certificate,
        written=written,
        written_scale=scale if written is not None else None,
        confidence=settings.confidence,
        notes=[*notes, *pair.notes, *cache.notes],
        record={
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - began, 1),
            "settings": _plain(settings),
            "base_fingerprint": asked.fingerprint,
            "task_versions": [task_version_key(each.task) for each in asked.gain],
            "scoring_version": SCORING_VERSION,
            "provenance": provenance(),
        },
    )


def _ask_base(pair: ModelPair, settings: DialSettings, cache: ScoreCache, console: Console, notes: list[str]) -> _Asked:
    with pair.base() as base:
        gain = _gain_tasks(settings, base)
        kept = _without_repeats(_kept_tasks(settings, base, notes), notes)
        questions = sum(len(each.items) for each in kept)
        if settings.keep is not None:
            select = round(_SELECT * questions)
            check_items(
                settings.keep,
                items=questions - select,
                ask_more=_ASK_MORE,
                confidence=settings.confidence,
            )
        scores, _ = cached_scores(base, [*gain, *kept], cache, "the base model", console, fresh=settings.fresh)
        right = [
            (place, index)
            for place, score in enumerate(scores[len(gain) :])
            for index, item in enumerate(score.items)
            if item.correct
        ]
        if not right:
            raise ConfigError("the base model answers no question right, so nothing can be kept; ask other questions.")
        parts = [tuple(range(len(right))), ()]
        if settings.keep is not None:
            split = split_probe(
                [kept[place].task.name for place, _ in right], seed=settings.seed, steer=0.0, select=_SELECT
            )
            parts = [split.select, split.certify]
        select_tasks, certify_tasks = (_part(kept, [right[index] for index in part]) for part in parts)
        return _Asked(
            gain=gain,
            base_gain=scores[: len(gain)],
            select=select_tasks,
            certify=certify_tasks,
            fingerprint=base.fingerprint,
        )


def _gain_tasks(settings: DialSettings, base: ReadyModel) -> list[AskedTask]:
    run = own_run(settings.tuned)
    if not settings.tasks and run is not None:
        rows = held_out_rows(run, base.model, base.tokenizer, trust_tasks=settings.trust_tasks)
        return tasks_of_rows(rows, str(run), base.tokenizer, count=len(rows), seed=settings.seed)
    if not settings.tasks:
        raise ConfigError(
            f"{settings.tuned} is no run of secura train, so what it learned is not known; name tasks, or a file of "
            "rows, with --tasks."
        )
    return _named(settings.tasks, settings, base)


def _kept_tasks(settings: DialSettings, base: ReadyModel, notes: list[str]) -> list[AskedTask]:
    run = own_run(settings.tuned)
    if settings.retain:
        tasks = _named(settings.retain, settings, base)
    elif run is not None:
        rows = retained_questions(run, base.model, base.tokenizer, trust_tasks=settings.trust_tasks)
        tasks = tasks_of_rows(rows, str(run), base.tokenizer, count=len(rows), seed=settings.seed)
        if settings.keep is not None and stored_certificate(run) is not None:
            notes.append(
                "the run already has a certificate on these questions; another one on the same questions is a second "
                "look, and holds less often than it says: name new ones with --retain"
            )
    else:
        default = WORLD_KNOWLEDGE if settings.base == BUNDLED else EVERYDAY
        tasks = _named((default,), settings, base)
    left_out = [each.task.name for each in tasks if not each.right_or_wrong]
    if len(left_out) == len(tasks):
        raise ConfigError(
            "--retain names nothing that is answered right or wrong, so nothing can be counted as kept; name questions."
        )
    if left_out:
        notes.append(f"not counted as kept, because answers are not right or wrong: {', '.join(left_out)}")
    return [each for each in tasks if each.right_or_wrong]


def _named(names: Sequence[str], settings: DialSettings, base: ReadyModel) -> list[AskedTask]:
    """Tasks and groups by name, and files of rows."""
    files = [name for name in names if Path(name).exists() and not is_user_task(name)]
    return asked_tasks(
        [name for name in names if name not in files],
        retain=",".join(files) or None,
        bundled=False,
        data=settings.data,
        count=settings.count,
        seed=settings.seed,
        tokenizer=base.tokenizer,
    )


def _without_repeats(tasks: Sequence[AskedTask], notes: list[str]) -> list[AskedTask]:
    """Each question once: one that stood in both parts would be looked at twice."""
    seen: set[Any] = set()
    left: list[AskedTask] = []
    for each in tasks:
        own = []
        for item in each.items:
            key = replace(item, family="") if not getattr(item, "turns", ()) else repr(item)
            if key not in seen:
                seen.add(key)
                own.append(item)
        if own:
            left.append(AskedTask(task=each.task, items=own))
    repeated = sum(len(each.items) for each in tasks) - len(seen)
    if repeated:
        notes.append(f"{repeated} questions appear in --retain more than once and are asked once")
    return left


def _part(tasks: Sequence[AskedTask], places: Sequence[tuple[int, int]]) -> list[AskedTask]:
    members: dict[int, list[int]] = {}
    for place, index in places:
        members.setdefault(place, []).append(index)
    return [
        AskedTask(task=tasks[place].task, items=[tasks[place].items[index] for index in sorted(indices)])
        for place, indices in sorted(members.items())
    ]


def _ask_points(
    pair: ModelPair, settings: DialSettings, asked: _Asked, cache: ScoreCache, console: Console
) -> list[DialPoint]:
    found: dict[float, DialPoint] = {}

    def take(scale: float) -> None:
        with pair.at(scale) as ready:
            scores, _ = cached_scores(
                ready, [*asked.gain, *asked.select], cache, f"the model at {scale:g}", console, fresh=settings.fresh
            )
        gain, select = scores[: len(asked.gain)], scores[len(asked.gain) :]
        found[scale] = DialPoint(
            scale=scale,
            gain=_gain(asked.gain, asked.base_gain, gain),
            scores=_scores(asked.gain, gain),
            kept=_tally(asked.select_items, _right(select)),
        )

    for scale in check_grid(settings.at):
        take(scale)
    keep = settings.keep
    if keep is not None and asked.certify_items >= items_needed(keep, settings.confidence):

        def enough(scale: float) -> bool:
            assert keep is not None
            return reaches(found[scale].kept.after, asked.select_items, keep, settings.confidence)

        ask_between(found, take, enough, times=settings.refine)
    return [found[scale] for scale in sorted(found)]


def _certificate(
    pair: ModelPair, settings: DialSettings, asked: _Asked, points: Sequence[DialPoint], console: Console
) -> Certificate:
    assert settings.keep is not None
    known: dict[str, Any] = {
        "keep": settings.keep,
        "confidence": settings.confidence,
        "seed": settings.seed,
        "select_items": asked.select_items,
        "items": asked.certify_items,
    }
    candidates = [Point(scale=point.scale, gain=point.gain, kept=point.kept.after) for point in points]
    refused = not_certified(candidates, **known)
    if refused is not None:
        return refused
    chosen = choose_point(candidates, asked.select_items, settings.keep, settings.confidence)
    assert chosen is not None
    scores: list[TaskScore] = []
    with pair.at(chosen.scale) as ready:
        ask(
            ready,
            asked.certify,
            f"the model at {chosen.scale:g}, once, the held-back",
            console,
            lambda _, score: scores.append(score),
        )
    return certify(chosen.scale, _right(scores), points=len(points), **known)


def _write(pair: ModelPair, scale: float, folder: Path, *, merged: bool) -> None:
    if not pair.is_adapter:
        with pair.at(scale) as ready:
            write_folder(folder, lambda path: save_result(path, ready.model, ready.tokenizer, record={}))
        return
    held = pair.adapter()
    save_scaled(
        folder, held.model, held.tokenizer, scale, record=held.record, base_values=held.base_values, merged=merged
    )


def _is_share(each: AskedTask) -> bool:
    return each.task.kind != "text"


def _unit(tasks: Sequence[AskedTask]) -> GainUnit:
    return "points" if any(_is_share(each) for each in tasks) else "nats a token"


def _gain(tasks: Sequence[AskedTask], before: Sequence[TaskScore], after: Sequence[TaskScore]) -> float:
    """Mean over the tasks of a share that rose; of nats that fell, where no task has a share."""
    shares = _unit(tasks) == "points"
    return fmean(
        new.value - old.value if shares else old.also["nats_per_token"] - new.also["nats_per_token"]
        for each, old, new in zip(tasks, before, after, strict=True)
        if _is_share(each) == shares
    )


def _scores(tasks: Sequence[AskedTask], scores: Sequence[TaskScore]) -> dict[str, float]:
    return {
        each.task.name: score.value if _is_share(each) else score.also["nats_per_token"]
        for each, score in zip(tasks, scores, strict=True)
    }


def _right(scores: Sequence[TaskScore]) -> int:
    return sum(bool(item.correct) for score in scores for item in score.items)


def _tally(items: int, kept: int) -> Tally:
    return Tally(asked=items, before=items, after=kept, lost=items - kept)


def _plain(settings: DialSettings) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(settings).items()}
