"""A comparison of two models as one page: a single file that asks nothing of any network.

Whatever comes from data is escaped: in the markup by the template, in the data of the script
by `for_script`, and in the script by setting text alone. A policy in the page itself forbids
every request.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from secura.experiments.forget.result import ANSWER_KINDS, Flip, ForgetResult, TaskChange, TokenView
from secura.experiments.forget.result_json import JSON_FILE, answer_likelihoods
from secura.report.certificate_text import certificate_facts
from secura.report.matrix_figure import difference_figure, drawn, score_matrix
from secura.report.page_parts import flat_facts, for_script, own_file, page_templates, plotly_script
from secura.report.told_apart import told_apart
from secura.report.wording import (
    details,
    difference_text,
    headline,
    interval_text,
    p_text,
    significance_text,
    smallest_visible_text,
    unit,
    value_text,
)

PAGE_FILE = "forget.html"

_FLIP_BYTES = 900_000
"""Room for flips, so that the page stays under 6 MB; plotly alone takes 4.8."""

_PROMPT_LETTERS = 3_000
_ANSWER_LETTERS = 1_500


def forget_page(result: ForgetResult, certificate: Mapping[str, Any] | None = None) -> str:
    """The whole page as HTML.

    Args:
        result: the comparison.
        certificate: of the run that made the tuned model, as it is stored; None where there is none.
    """
    flips, left_out = _flips(result)
    templates = page_templates()
    changes = result.changes
    data = {
        "tasks": list(dict.fromkeys(flip["task"] for flip in flips)),
        "kinds": _kinds(result.flips),
        "flips": flips,
        "figures": {"scores": score_matrix(changes), "differences": difference_figure(changes)},
    }
    return templates.get_template("forget.html.jinja").render(
        base=result.base,
        tuned=result.tuned,
        headline=headline(result),
        lost=bool(result.lost),
        details=details(result),
        verdict=result.verdict,
        certificate=certificate,
        certificate_facts=certificate_facts(certificate),
        limit=f"{100 * result.verdict.limit:g}%" if result.verdict else "",
        confidence=f"{100 * result.confidence:g}%",
        rows=[_row(change) for change in changes],
        not_in_figure=[change.name for change in changes if change not in drawn(changes)],
        kinds=_kinds(result.flips),
        kind_rows=_kind_rows(result.flips),
        flip_total=len(result.flips),
        left_out=left_out,
        json_name=JSON_FILE,
        notes=result.notes,
        facts=flat_facts(result.record),
        style=own_file(templates, "sheet.css") + own_file(templates, "forget.css"),
        program=own_file(templates, "figures.js") + own_file(templates, "forget.js"),
        plotly=plotly_script(),
        data=for_script(data),
    )


def _row(change: TaskChange) -> dict[str, str]:
    return {
        "name": change.name,
        "tests": change.task.tests,
        "metric": change.task.metric,
        "state": "lost" if change.lost else "gained" if change.gained else "unchanged",
        "base": value_text(change, tuned=False),
        "tuned": value_text(change, tuned=True),
        "difference": difference_text(change),
        "unit": unit(change),
        "interval": interval_text(change),
        "significant": significance_text(change),
        "p": p_text(change),
        "asked": f"{len(change.before.items):,}",
        "smallest_visible": smallest_visible_text(change),
    }


def _kind_rows(flips: Sequence[Flip]) -> list[dict[str, Any]]:
    """Flips of each task by kind of right answer, lost and gained; and of all tasks."""

    def counts(task: str | None) -> list[dict[str, Any]]:
        own = [flip for flip in flips if task in (None, flip.task)]
        return [
            {
                "kind": kind,
                **{
                    direction: sum(flip.direction == direction and kind in (None, flip.kind) for flip in own)
                    for direction in ("lost", "gained")
                },
            }
            for kind in (*_kinds(flips), None)
        ]

    tasks = dict.fromkeys(flip.task for flip in flips)
    return [{"task": task, "cells": counts(task)} for task in (*tasks, None)]


def _kinds(flips: Sequence[Flip]) -> list[str]:
    return [kind for kind in ANSWER_KINDS if any(flip.kind == kind for flip in flips)]


def _flips(result: ForgetResult) -> tuple[list[dict[str, Any]], int]:
    """As many flips of each task as fit, in the result's order, and how many are left out."""
    room, chosen = _FLIP_BYTES, {}
    for place in _task_by_task(result.flips):
        made = _flip(result.flips[place])
        room -= len(for_script(made))
        if room < 0:
            break
        chosen[place] = made
    return [chosen[place] for place in sorted(chosen)], len(result.flips) - len(chosen)


def _task_by_task(flips: Sequence[Flip]) -> Iterator[int]:
    """Places of flips: first those with tokens, then one of each task and direction in turn."""
    yield from (place for place, flip in enumerate(flips) if flip.views)
    rank: dict[tuple[str, str], int] = {}
    order = []
    for place, flip in enumerate(flips):
        key = flip.task, flip.direction
        rank[key] = rank.get(key, 0) + 1
        order.append((rank[key], place))
    yield from (place for _, place in sorted(order) if not flips[place].views)


def _flip(flip: Flip) -> dict[str, Any]:
    answers = flip.question.answer, flip.before.given, flip.after.given
    right, before, after = told_apart(answers, _ANSWER_LETTERS)
    made: dict[str, Any] = {
        "task": flip.task,
        "index": flip.index + 1,
        "direction": flip.direction,
        "kind": flip.kind,
        "prompt": _shortened(flip.question.prompt, _PROMPT_LETTERS),
        "right": right,
        "before": before,
        "after": after,
        "views": [_view(view) for view in flip.views],
    }
    if flip.question.choices and flip.before.likelihoods and flip.after.likelihoods:
        made["choices"] = told_apart(flip.question.choices, _ANSWER_LETTERS)
        made["base_likelihoods"] = answer_likelihoods(flip.before.likelihoods)
        made["tuned_likelihoods"] = answer_likelihoods(flip.after.likelihoods)
    return made


def _view(view: TokenView) -> dict[str, Any]:
    return {
        "tokens": view.tokens,
        "base": answer_likelihoods(view.base),
        "tuned": answer_likelihoods(view.tuned),
    }


def _shortened(text: str, letters: int) -> str:
    """A text with its middle left out, where it is long: the question often stands at its end."""
    if len(text) <= letters:
        return text
    return f"{text[: letters // 3]} […] {text[-(letters - letters // 3) :]}"
