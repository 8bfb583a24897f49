"""Scores on the screen: ours with their range, the harness's as it names them."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from secura.evaluation.lm_eval_bridge import HarnessScore
from secura.evaluation.significance import share_interval
from secura.evaluation.task_score import TaskScore
from secura.experiments.evaluate import EvalResult
from secura.visible import visible

_CALLED = {
    "accuracy": "right",
    "accuracy_by_length": "right, by length",
    "exact_match": "right",
    "match": "right",
    "number_match": "right number",
    "rouge1": "ROUGE-1",
    "rougeL": "ROUGE-L",
    "bleu": "BLEU",
    "chrf": "chrF",
    "perplexity": "perplexity",
}
_ALSO = {
    "accuracy": "by sum",
    "accuracy_by_length": "by length",
    "rouge1": "ROUGE-1",
    "rougeL": "ROUGE-L",
    "bleu": "BLEU",
    "chrf": "chrF",
    "bits_per_byte": "bits a byte",
}
"""Other metrics that say more than the headline does; nats a token are its logarithm."""


def show_scores(console: Console, result: EvalResult) -> None:
    """Print the tables, what the user should know, and where everything is."""
    if result.scores:
        console.print(_own_table(result.scores, result.chances), highlight=False)
    if result.harness:
        console.print(_harness_table(result.harness), highlight=False)
    for note in result.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"every answer is in {result.file}", highlight=False, markup=False, soft_wrap=True)


def _own_table(scores: Sequence[TaskScore], chances: Sequence[float | None]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))  # 80 columns hold all of it
    table.add_column("task", overflow="fold")
    table.add_column("items", justify="right", no_wrap=True)
    table.add_column("measure")
    for heading in ("score", "95% interval", "chance"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("also")
    for score, chance in zip(scores, chances, strict=True):
        table.add_row(
            Text(visible(score.task)),
            f"{len(score.items):,}",
            _CALLED[score.metric],
            _shown(score.metric, score.value),
            _interval(score),
            "" if chance is None else f"{chance:.1%}",
            ", ".join(
                f"{_ALSO[name]} {_shown(name, value)}"
                for name, value in score.also.items()
                if name in _ALSO and name != score.metric
            ),
        )
    return table


def _shown(metric: str, value: float) -> str:
    if metric in ("accuracy", "accuracy_by_length", "exact_match", "match", "number_match"):
        return f"{value:.1%}"
    if metric in ("rouge1", "rougeL", "bleu", "chrf"):
        return f"{100 * value:.1f}"  # as papers give them
    return f"{value:,.2f}" if value < 1e6 else f"{value:.2e}"


def _interval(score: TaskScore) -> str:
    """Of the share of right answers, by Clopper and Pearson: what other items of the task might have given."""
    right = [each.correct for each in score.items]
    if None in right:
        return ""
    found = share_interval(sum(map(bool, right)), len(right))
    return f"{100 * found.low:.1f} to {100 * found.high:.1f}"


def _harness_table(scores: Sequence[HarnessScore]) -> Table:
    table = Table(title="lm-evaluation-harness", title_justify="left", box=SIMPLE_HEAD, show_edge=False)
    table.add_column("task", overflow="fold")
    for heading in ("version", "examples"):
        table.add_column(heading, justify="right")
    table.add_column("metric, filter")
    table.add_column("value", justify="right")
    for score in scores:
        for name, value in score.values.items():
            examples = "" if score.examples is None else str(score.examples)
            table.add_row(Text(visible(score.task)), score.version, examples, name, f"{value:.4f}")
    return table
