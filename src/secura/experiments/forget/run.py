"""One run of `secura forget`: the same questions asked of a base model and of what was made of it.

Settings and questions are checked before a model answers anything. The base's scores come
from the cache where they can; the tuned model is always asked.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from secura.errors import ConfigError
from secura.evaluation.provenance import provenance
from secura.evaluation.retention_gate import Verdict, check_gate_can_open, judge
from secura.evaluation.score_cache import ScoreCache, cache_folder
from secura.evaluation.scoring import SCORING_VERSION
from secura.evaluation.significance import compare_paired, holm
from secura.evaluation.tally import Tally, together
from secura.evaluation.task_score import TaskScore
from secura.experiments.asking import AskedTask, ask
from secura.experiments.forget.cached_scores import cached_scores
from secura.experiments.forget.result import ForgetResult, TaskChange, by_clearest_loss
from secura.experiments.forget.tasks import asked_tasks
from secura.experiments.forget.token_views import with_token_views
from secura.experiments.models.loading import load_tokenizer_and_context
from secura.experiments.models.pair import BUNDLED, ModelPair, model_pair
from secura.experiments.settings.run import ModelConfig
from secura.tasks.task_items import task_version_key
from secura.training.library_output import silence_libraries

DEFAULT_COUNT = 200
"""Questions a task: a loss of 4 points is seen, and the bundled model answers in seconds."""

_ASK_MORE = "raise --count, or ask more tasks"


@dataclass(frozen=True, kw_only=True)
class ForgetSettings:
    """What to compare, and how."""

    base: str
    """Folder or hub id of the base model, or the word `bundled`."""
    tuned: str
    """Folder of an adapter, of a model, or of a run; or hub id of a model."""
    tasks: tuple[str, ...] = ()
    """Tasks, groups or task files; empty for the default."""
    retain: str | None = None
    """File of rows, each of its families a task."""
    data: Path | None = None
    """Folder with the rows of tasks."""
    count: int = DEFAULT_COUNT
    """Questions of each task, at most."""
    min_retention: float | None = None
    """Share of the base's knowledge that must be kept; None for no gate."""
    confidence: float = 0.95
    """Of every interval; 1 − confidence is the level of significance."""
    seed: int = 0
    """Draws the questions and the resamples."""
    token_views: int = 20
    """Flips that are looked at token by token."""
    fresh: bool = False
    """Ask the base anew, whatever the cache holds."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"--count is {self.count}; give a number of questions per task, at least 1.")
        if not 0 < self.confidence < 1:
            raise ConfigError(f"--confidence is {self.confidence}; give a share between 0 and 1, such as 0.95.")
        if self.min_retention is not None and not 0 <= self.min_retention < 1:
            raise ConfigError(
                f"--min-retention is {self.min_retention}; give a share of at least 0 and below 1, such as 0.98: "
                "no number of questions can show that everything is kept."
            )
        if self.token_views < 0:
            raise ConfigError(f"--token-views is {self.token_views}; give a number of flips, at least 0.")
        if self.seed < 0:
            raise ConfigError(f"--seed is {self.seed}; give a whole number, at least 0.")


def forget(settings: ForgetSettings, console: Console) -> ForgetResult:
    """Ask both models and compare their answers.

    Raises:
        InputError: for a model, a task, a file or an adapter that cannot be used, and for a
            gate that so few questions could never open.
        SecuraError: if a model's score is not a number, as that of a model with NaN weights.
    """
    silence_libraries()
    began = time.monotonic()
    pair = model_pair(settings.base, settings.tuned)
    pair.check()
    asked = _asked(pair, settings)
    cache = ScoreCache(folder=cache_folder())
    base = _ask_base(pair, asked, settings, cache, console)
    tuned = _ask_tuned(pair, base.asked, console)
    if tuned.chat_template != base.chat_template:
        pair.notes.append("the two models have different chat templates, so each is asked with its own")
    changes = by_clearest_loss(compare(base.asked, base.scores, tuned.scores, base.cached, settings))
    kept = {change.name: change.tally for change in changes if change.right_or_wrong}
    return ForgetResult(
        base=settings.base,
        tuned=settings.tuned,
        changes=changes,
        flips=with_token_views(
            [flip for change in changes for flip in change.flips], pair, at_most=settings.token_views, console=console
        ),
        kept=together(kept.values()) if kept else None,
        verdict=_verdict(settings, kept),
        confidence=settings.confidence,
        notes=[*pair.notes, *cache.notes],
        record={
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - began, 1),
            "settings": _plain_settings(settings),
            "base_model": base.about,
            "tuned_model": tuned.about,
            "task_versions": [task_version_key(each.task) for each in base.asked],
            "scoring_version": SCORING_VERSION,
            "provenance": provenance(),
        },
    )


@dataclass(frozen=True, kw_only=True)
class _Answers:
    """What one model answered. It holds no model, so that the next one has the memory."""

    asked: Sequence[AskedTask]
    scores: list[TaskScore]
    cached: list[bool]
    chat_template: Any
    about: dict[str, Any]


def _asked(pair: ModelPair, settings: ForgetSettings) -> list[AskedTask]:
    """What is asked, read before any weight is: a wrong name should not cost the time that a large base takes."""
    asked = asked_tasks(
        settings.tasks,
        retain=settings.retain,
        bundled=settings.base == BUNDLED,
        data=settings.data,
        count=settings.count,
        seed=settings.seed,
        tokenizer=load_tokenizer_and_context(ModelConfig(path=pair.base_path))[0],
    )
    _check_gate(settings, asked)
    return asked


def _ask_base(
    pair: ModelPair, asked: list[AskedTask], settings: ForgetSettings, cache: ScoreCache, console: Console
) -> _Answers:
    with pair.base() as base:
        scores, cached = cached_scores(base, asked, cache, "the base model", console, fresh=settings.fresh)
        return _Answers(
            asked=asked,
            scores=scores,
            cached=cached,
            chat_template=base.tokenizer.chat_template,
            about={"fingerprint": base.fingerprint, "arithmetic": base.arithmetic},
        )


def _ask_tuned(pair: ModelPair, asked: Sequence[AskedTask], console: Console) -> _Answers:
    with pair.tuned() as tuned:
        if pair.is_adapter and not tuned.merged:
            pair.notes.append("the adapter's method cannot be merged into the weights, so it was scored beside them")
        scores: list[TaskScore] = []
        ask(tuned, asked, "the tuned model", console, lambda _, score: scores.append(score))
        return _Answers(
            asked=asked,
            scores=scores,
            cached=[False] * len(asked),
            chat_template=tuned.tokenizer.chat_template,
            about={"arithmetic": tuned.arithmetic, "adapter": pair.is_adapter, "merged": tuned.merged},
        )


def _plain_settings(settings: ForgetSettings) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(settings).items()}


def _check_gate(settings: ForgetSettings, asked: Sequence[AskedTask]) -> None:
    """Refuse a gate that nothing could open, before anything is asked."""
    limit = settings.min_retention
    if limit is None:
        return
    right_or_wrong = [each for each in asked if each.right_or_wrong]
    if not right_or_wrong:
        raise ConfigError(
            "--min-retention counts right answers, but no task asked has right and wrong ones; "
            "name one that does, or leave the limit out."
        )
    count = sum(len(each.items) for each in right_or_wrong)
    check_gate_can_open(limit, count, ask_more=_ASK_MORE, confidence=settings.confidence)


def compare(
    asked: Sequence[AskedTask],
    before: Sequence[TaskScore],
    after: Sequence[TaskScore],
    cached: Sequence[bool],
    settings: ForgetSettings,
) -> list[TaskChange]:
    """Compare both models task by task, with Holm's correction over the tasks; in the order asked."""
    compared = [
        compare_paired(
            [item.score for item in old.items],
            [item.score for item in new.items],
            binary=each.right_or_wrong,
            confidence=settings.confidence,
            tasks=len(asked),
            seed=settings.seed,
        )
        for each, old, new in zip(asked, before, after, strict=True)
    ]
    adjusted = holm([comparison.p for comparison in compared])
    return [
        TaskChange(
            task=each.task,
            before=old,
            after=new,
            paired=comparison,
            adjusted_p=p,
            significant=p <= 1 - settings.confidence,
            cached=from_cache,
        )
        for each, old, new, comparison, p, from_cache in zip(
            asked, before, after, compared, adjusted, cached, strict=True
        )
    ]


def _verdict(settings: ForgetSettings, kept: dict[str, Tally]) -> Verdict | None:
    if settings.min_retention is None or not kept:
        return None
    return judge(kept, settings.min_retention, ask_more=_ASK_MORE, confidence=settings.confidence)
