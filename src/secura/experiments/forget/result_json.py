"""A comparison of two models as JSON: every number, every answer, and what it was made with."""

import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from secura.evaluation.answer_match import rule_as_json
from secura.evaluation.tally import tally_as_json
from secura.evaluation.task_score import ItemScore, TaskScore
from secura.experiments.forget.result import Flip, ForgetResult, TaskChange
from secura.tasks.question import Item, PlainText

JSON_FILE = "forget.json"


def result_as_json(result: ForgetResult) -> dict[str, Any]:
    """All of a result; numbers that JSON cannot hold become null."""
    return {
        "base": result.base,
        "tuned": result.tuned,
        "confidence": result.confidence,
        "kept": None if result.kept is None else tally_as_json(result.kept, result.confidence),
        "verdict": None if result.verdict is None else asdict(result.verdict),
        "clearest_loss": result.lost[0].name if result.lost else None,
        "lost": [change.name for change in result.lost],
        "gained": [change.name for change in result.gained],
        "tasks": [_change_as_json(change) for change in result.changes],
        "flips": [_flip_as_json(flip) for flip in result.flips],
        "notes": list(result.notes),
        **result.record,
    }


def answer_likelihoods(values: Iterable[float | None]) -> list[float | None]:
    """Log-likelihoods to a thousandth of a nat; null where there is none or it is infinite."""
    return [None if value is None or not math.isfinite(value) else round(value, 3) for value in values]


def _change_as_json(change: TaskChange) -> dict[str, Any]:
    paired = change.paired
    return {
        "task": change.name,
        "version": change.before.version,
        "metric": change.task.metric,
        "items": len(change.before.items),
        "base": _score_as_json(change.before),
        "tuned": _score_as_json(change.after),
        "difference": _finite(paired.difference),
        "interval": [_finite(paired.low), _finite(paired.high)],
        "p": _finite(paired.p),
        "test": paired.test,
        "adjusted_p": _finite(change.adjusted_p),
        "significant": change.significant,
        "worse": change.loss > 0,
        "smallest_visible": _finite(paired.smallest_visible),
        "base_from_cache": change.cached,
        "answers": [_pair_as_json(old, new) for old, new in zip(change.before.items, change.after.items, strict=True)],
    }


def _score_as_json(score: TaskScore) -> dict[str, Any]:
    return {
        "value": _finite(score.value),
        "also": {name: _finite(value) for name, value in score.also.items()},
        "truncated": score.truncated,
    }


def _pair_as_json(old: ItemScore, new: ItemScore) -> dict[str, Any]:
    return {**_item_as_json(old.item), "base": _answer_as_json(old), "tuned": _answer_as_json(new)}


def _item_as_json(item: Item) -> dict[str, Any]:
    if isinstance(item, PlainText):
        return {"text": item.text}
    choices = {"choices": list(item.choices)} if item.choices else {}
    return {"prompt": item.prompt, "right": item.answer, **choices, **rule_as_json(item)}


def _answer_as_json(answer: ItemScore) -> dict[str, Any]:
    made: dict[str, Any] = {"given": answer.given, "score": _finite(answer.score), "correct": answer.correct}
    if answer.truncated:
        made["truncated"] = True
    if answer.likelihoods:
        made["likelihoods"] = answer_likelihoods(answer.likelihoods)
    return made


def _flip_as_json(flip: Flip) -> dict[str, Any]:
    return {
        "task": flip.task,
        "index": flip.index,
        "direction": flip.direction,
        "kind": flip.kind,
        "prompt": flip.question.prompt,
        "right": flip.question.answer,
        "base": flip.before.given,
        "tuned": flip.after.given,
        "tokens": [
            {
                "answer": view.answer,
                "tokens": list(view.tokens),
                "base": answer_likelihoods(view.base),
                "tuned": answer_likelihoods(view.tuned),
            }
            for view in flip.views
        ],
    }


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
