"""The card itself: front matter that the Hub reads, and a text that people read.

The license, the language and the intended use are the owner's to say; the card leaves them
open and says so. A card that nobody has edited may be replaced, one that somebody has may not.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from secura.adapters.secura.config import PEFT_TYPE_NAME
from secura.errors import ConfigError
from secura.evaluation.tally import CONFIDENCE, TOO_FEW, Tally, interval_cell, kept_cell, kept_phrase, percent
from secura.report.card.checked import check_card
from secura.report.card.finished_run import FinishedRun, Group
from secura.report.card.loading import A_PROMPT, card_templates, loading_snippet
from secura.whole_files import write_text

CARD_FILE = "README.md"

_PEFTS_STUB = "# Model Card for Model ID"
_MARK = re.compile(r"\n<!-- made by secura card; sha256 of the rest: ([0-9a-f]{64}) -->\n$")
_LICENSE_NOTE = (
    "# license: yours to choose; it has to fit that of the base model and of the data\n"
    "# language: not known to secura card\n"
)


def write_card(run: FinishedRun, *, force: bool, show_question: bool = False) -> Path:
    """Write the card beside what the run has made.

    Args:
        run: what it tells of.
        force: whether to replace a card that somebody has written or edited.
        show_question: whether it may show a question of the data.

    Raises:
        ConfigError: if there is a card already that somebody has written or edited.
    """
    path = run.saved / CARD_FILE
    if path.exists() and not force and not _may_be_replaced(path.read_text(encoding="utf-8")):
        raise ConfigError(f"{path} was written or edited by hand; --force replaces it.")
    write_text(path, card_text(run, show_question=show_question))
    return path


def card_text(run: FinishedRun, *, show_question: bool = False) -> str:
    """The whole card; it shows a row of the data only where that is asked for."""
    templates = card_templates()
    templates.filters["plain"] = _plain
    body = templates.get_template("card.md.jinja").render(
        run=run,
        title=_title(run),
        summary=_summary(run),
        learned=[_row(group) for group in run.learned],
        families=[_row(group) for group in run.families],
        knowledge=_row(Group(name="all", tally=run.knowledge)) if run.knowledge else None,
        certificate=run.certificate,
        nats=run.nats if None not in run.nats else None,
        confidence=f"{100 * CONFIDENCE:g}%",
        settings=_settings(run),
        versions=[(name, value) for name, value in run.provenance["versions"].items() if value],
        hardware=", ".join(f"{name} {value}" for name, value in run.provenance["hardware"].items() if value),
        commit=(run.provenance.get("commit") or "")[:12],
        is_in_its_run=run.saved.parent == run.folder,
        snippet=loading_snippet(
            run.saved,
            base=run.base if run.is_adapter else None,
            is_own_method=run.peft_type == PEFT_TYPE_NAME,
            prompt=run.prompt if show_question and run.prompt else A_PROMPT,
        ),
    )
    front = card_data(run).to_yaml()
    text = f"---\n{front}\n{_LICENSE_NOTE}---\n\n{body.strip()}\n"
    check_card(text)
    return f"{text}\n<!-- made by secura card; sha256 of the rest: {_checksum(text)} -->\n"


def card_data(run: FinishedRun) -> ModelCardData:
    """What the Hub reads of the card, results included."""
    adapter_of = f"base_model:adapter:{run.base_on_hub}" if run.base_on_hub and run.is_adapter else None
    tags = ["secura", run.method, *([run.strategy] if run.strategy else []), *([adapter_of] if adapter_of else [])]
    return ModelCardData(
        base_model=run.base_on_hub,
        library_name="peft" if run.is_adapter else "transformers",
        pipeline_tag="text-generation",
        tags=tags,
        datasets=run.data_on_hub or None,
        model_name=_title(run),
        eval_results=_results(run),
    )


def _results(run: FinishedRun) -> list[EvalResult] | None:
    """Right answers on each task and on knowledge, with what was kept, in the Hub's schema."""
    results = [_right(f"{group.name}, held out", _data_type(run, group.name), group.tally) for group in run.learned]
    everything = [Group(name="all", tally=run.knowledge)] if run.knowledge else []
    for group in (*everything, *run.families):
        where = "Knowledge of the base model" + ("" if group.name == "all" else f": {group.name}")
        kind = f"retention/{group.name}"
        results.append(_right(where, kind, group.tally))
        kept = group.tally.kept
        if kept is not None and not group.tally.too_few():
            metric = "share of the base model's right answers still right"
            results.append(_result(where, kind, "knowledge_kept", metric, round(kept, 4)))
    return results or None


def _right(name: str, kind: str, tally: Tally) -> EvalResult:
    return _result(name, kind, "accuracy", "right answers", _share(tally))


def _result(name: str, kind: str, metric: str, metric_name: str, value: float) -> EvalResult:
    return EvalResult(
        task_type="text-generation",
        task_name="Text generation",
        dataset_type=kind,
        dataset_name=name,
        metric_type=metric,
        metric_name=metric_name,
        metric_value=value,
    )


def _data_type(run: FinishedRun, task: str) -> str:
    """The data set's name on the Hub, where the task is one; otherwise the task's own."""
    return next((name for name in run.data_on_hub if task in (name, name.split("/")[-1])), _file_name(task))


def _share(tally: Tally) -> float:
    return round(tally.after / tally.asked, 4)


def _title(run: FinishedRun) -> str:
    what = _file_name(run.tasks[0]) if len(run.tasks) == 1 else f"{len(run.tasks)} tasks in sequence"
    return f"{run.base_shown} taught {what} by {run.method}"


def _file_name(name: str) -> str:
    """A task by its name; one that is a file by the file's."""
    return Path(name).stem if name.endswith((".jsonl", ".json")) else name


def _summary(run: FinishedRun) -> str:
    """What was learned and what was kept, in a sentence or two."""
    said = []
    if len(run.learned) == 1:
        tally = run.learned[0].tally
        said.append(
            f"Of {tally.asked:,} held-out questions of {_file_name(run.learned[0].name)} it answers "
            f"{percent(_share(tally))} right, its base model {percent(tally.before / tally.asked)}."
        )
    elif run.learned:
        after = sum(_share(group.tally) for group in run.learned) / len(run.learned)
        before = sum(group.tally.before / group.tally.asked for group in run.learned) / len(run.learned)
        said.append(
            f"Of the held-out questions of {len(run.learned)} tasks it answers {percent(after)} right at the end, "
            f"its base model {percent(before)}, each task counting once."
        )
    known = run.knowledge
    if known is None:
        said.append("What it forgot was not measured.")
    elif not known.before:
        said.append(f"Its base model answers none of {known.asked:,} knowledge questions right, so none can be kept.")
    elif known.too_few():
        said.append(
            f"Its base model answers {known.before:,} of {known.asked:,} knowledge questions right: "
            f"{TOO_FEW} what it kept."
        )
    else:
        said.append(
            f"Of {known.asked:,} knowledge questions its base model answers {known.before:,} right, of which it kept "
            f"{kept_phrase(known)}; it gained {known.gained:,} others."
        )
    return " ".join(said)


def _row(group: Group) -> dict[str, str]:
    tally = group.tally
    return {
        "name": _plain(group.name),
        "asked": f"{tally.asked:,}",
        "before": percent(tally.before / tally.asked),
        "after": percent(tally.after / tally.asked),
        "kept": kept_cell(tally),
        "interval": interval_cell(tally) or "–",
        "gained": f"{tally.gained:,}",
        "gain": f"{100 * (tally.after - tally.before) / tally.asked:+.1f} points".replace("-", "−"),
    }


def _settings(run: FinishedRun) -> list[tuple[str, str]]:
    """What decides the result, besides the data."""
    method, training = run.config["method"], run.config["training"]
    rows: list[tuple[str, Any]] = [
        ("method", run.method),
        ("strategy against forgetting", run.strategy or None),
        ("weights trained", None if run.trained_weights is None else f"{run.trained_weights:,}"),
        ("steps" if len(run.tasks) == 1 else "steps a task", run.steps),
        ("peak learning rate", run.learning_rate),
        ("schedule", training["schedule"]),
        ("rows a step", training["batch_size"] * training["gradient_accumulation"]),
        ("longest gradient", training["max_grad_norm"]),
        ("weight decay", training["weight_decay"]),
        ("precision", training["precision"]),
        ("folds", method.get("fold_every") or method.get("boundary")),
        ("seed", run.seed),
        ("seconds", None if run.seconds is None else f"{run.seconds:,.0f}"),
        *((f"strategy.{key}", value) for key, value in run.config.get("strategy", {}).get("settings", {}).items()),
        *((f"adapter.{key}", value) for key, value in method["adapter"].items()),
    ]
    return [(name, _plain(str(value))) for name, value in rows if value is not None]


def _plain(text: str) -> str:
    """Text as a cell of a table: one line, and no bar that would end the cell."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def is_pefts_form(text: str) -> bool:
    """Whether a card is the empty form that PEFT writes."""
    return _PEFTS_STUB in text and text.count("[More Information Needed]") > 20


def _may_be_replaced(text: str) -> bool:
    """Whether a card is PEFT's empty form, or one of ours that nobody has edited."""
    if is_pefts_form(text):
        return True
    mark = _MARK.search(text)
    return mark is not None and _checksum(text[: mark.start()]) == mark[1]
