"""One run of `secura train` as one page: what it learned, what it kept, how it got there and what that cost.

A single file that asks nothing of any network; whatever comes from data is escaped, see `forget_page`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from secura.errors import DataError
from secura.evaluation.tally import CONFIDENCE, at_least_cell, kept_cell, kept_phrase, limit_text, percent
from secura.experiments.files import LOG_FILE, REPORT_FILE
from secura.json_text import read_json
from secura.report.card.finished_run import FinishedRun, Group, read_run
from secura.report.certificate_text import certificate_facts
from secura.report.page_parts import flat_facts, for_script, own_file, page_templates, plotly_script
from secura.report.step_figures import step_figures
from secura.report.told_apart import told_apart
from secura.training.step_lines import StepLines, read_step_lines
from secura.whole_files import write_text

PAGE_FILE = "run.html"

_SAMPLES = 6
"""Held-out rows shown with both answers."""
_LETTERS = 1_500
"""Where a long prompt or answer is cut."""
_MOST_FLIPS = 200


def is_train_run(folder: Path) -> bool:
    """Whether a folder is that of a finished run of `secura train`."""
    return (folder / REPORT_FILE).is_file()


def write_run_page(folder: Path, page: Path | None = None) -> Path:
    """Write the page of a run, whole or not at all; returns the file.

    Args:
        folder: folder of a finished run of `secura train`.
        page: where to; None is `run.html` in the folder.

    Raises:
        DataError: if the folder holds no such run, or its files are damaged.
    """
    written = page or folder / PAGE_FILE
    write_text(written, run_page(folder))
    return written


def run_page(folder: Path) -> str:
    """The whole page as HTML.

    Raises:
        DataError: if the folder holds no finished run of `secura train`, or its files are damaged.
    """
    try:
        run = read_run(folder)
        stored = read_json(folder / REPORT_FILE)
        steps = read_step_lines(folder / LOG_FILE)
        return _page(run, stored, steps)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        if isinstance(problem, DataError):
            raise
        raise DataError(
            f"{folder} cannot be shown: {REPORT_FILE} or {LOG_FILE} in it is damaged "
            f"({type(problem).__name__}: {problem})."
        ) from problem


def _page(run: FinishedRun, stored: Mapping[str, Any], steps: StepLines) -> str:
    templates = page_templates()
    figures = step_figures(steps.lines)
    flips = stored["retention"]["flips"]
    return templates.get_template("run.html.jinja").render(
        base=run.base_shown,
        made=f"{run.method}, {run.strategy}" if run.strategy else run.method,
        task=stored["task"],
        headline=headline(run),
        certificate=run.certificate,
        certificate_facts=certificate_facts(run.certificate),
        confidence=limit_text(CONFIDENCE),
        learned=_learned(run),
        families=[_family(each) for each in run.families],
        all_families=None if run.knowledge is None else _family(Group(name="all", tally=run.knowledge)),
        samples=[_both(answer) for answer in _telling(stored["new_task"]["answers"])],
        flips=[_both(flip) for flip in flips[:_MOST_FLIPS]],
        more_flips=max(0, len(flips) - _MOST_FLIPS),
        changed=[_both(answer) for answer in stored.get("open_answers", [])],
        points=[_point(point, stored) for point in stored.get("points", [])],
        figures=figures,
        cost=_cost(run, steps),
        json_name=REPORT_FILE,
        facts=flat_facts({"settings": run.config, "provenance": run.provenance}),
        style=own_file(templates, "sheet.css") + own_file(templates, "forget.css"),
        program=own_file(templates, "figures.js"),
        plotly=plotly_script(),
        data=for_script({"figures": {each.key: each.figure for each in figures}}),
    )


def headline(run: FinishedRun) -> str:
    """What came of a run, in a sentence or two."""
    learned = run.learned[0].tally if run.learned else None
    if learned is not None and learned.asked:
        gain = f"{percent(learned.after / learned.asked)} of {learned.asked:,} held-out rows are answered right"
        said = f"{gain} (before: {percent(learned.before / learned.asked)})."
    elif None not in run.nats:
        said = f"Held-out rows cost {run.nats[1]:.3f} nats a token (before: {run.nats[0]:.3f})."
    else:
        said = "What was learned was not measured."
    if run.knowledge is None:
        return f"{said} What was kept was not asked."
    return f"{said} Kept of what the base answers right: {kept_phrase(run.knowledge)}."


def _learned(run: FinishedRun) -> list[tuple[str, str, str]]:
    """What was measured of the new task: its name, before and after."""
    rows = []
    for tally in (each.tally for each in run.learned if each.tally.asked):
        before, after = percent(tally.before / tally.asked), percent(tally.after / tally.asked)
        rows.append((f"answered right, of {tally.asked:,}", before, after))
    nats_before, nats_after = run.nats
    if nats_before is not None and nats_after is not None:
        rows.append(("nats a token", f"{nats_before:.3f}", f"{nats_after:.3f}"))
    return rows


def _family(group: Group) -> dict[str, str]:
    tally = group.tally
    return {
        "name": group.name,
        "asked": f"{tally.asked:,}",
        "before": percent(tally.before / tally.asked),
        "after": percent(tally.after / tally.asked),
        "kept": kept_cell(tally),
        "at_least": at_least_cell(tally),
        "gained": f"{tally.gained:,}",
    }


def _telling(answers: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """A few answers, those that became right and those that did not in turn."""
    right = [each for each in answers if each["right_after"]]
    wrong = [each for each in answers if not each["right_after"]]
    shown = max(_SAMPLES // 2, _SAMPLES - len(wrong))
    return [*right[:shown], *wrong[: _SAMPLES - min(shown, len(right))]]


def _both(answer: Mapping[str, Any]) -> dict[str, Any]:
    """A prompt with the answers of both models; `right` is empty where none is."""
    right, before, after = told_apart((answer.get("right", ""), answer["before"], answer["after"]), _LETTERS)
    return {
        "family": answer.get("family", ""),
        "prompt": _cut(answer["prompt"]),
        "right": right,
        "before": before or "(nothing)",
        "after": after or "(nothing)",
    }


def _cut(text: str) -> str:
    return text if len(text) <= _LETTERS else text[:_LETTERS] + " […]"


def _point(point: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    nats = "" if point["gain"] is None else f"{-point['gain']:.3f}"
    return {
        "scale": f"{point['scale']:.4g}",
        "chosen": point["scale"] == stored["scale"],
        "nats": nats,
        "kept": f"{point['kept']:,}",
    }


def _cost(run: FinishedRun, steps: StepLines) -> list[tuple[str, str]]:
    saved = sum(path.stat().st_size for path in run.saved.glob("*.safetensors"))
    facts = [("steps", f"{run.steps:,}")] if run.steps is not None else []
    if run.seconds is not None:
        facts.append(("time of the steps", f"{run.seconds:,.0f} s"))
    if steps.memory_mb:
        facts.append(("most memory", f"{max(steps.memory_mb):,} MB"))
    if run.trained_weights is not None:
        facts.append(("weights trained", f"{run.trained_weights:,}"))
    return [*facts, ("size of what was saved", f"{saved / 1e6:,.1f} MB")]
