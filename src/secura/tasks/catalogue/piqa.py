"""PIQA: how to reach an everyday physical goal."""

from secura.tasks.catalogue.row_shapes import choice_question, choice_row
from secura.tasks.question import Question
from secura.tasks.task import HubRows, Row, Task


def _item(row: Row) -> Question:
    return choice_question(row, f"Question: {row['question']}\nAnswer:")


def _row_from_hub(row: Row) -> Row | None:
    return choice_row(row["goal"], [row["sol1"], row["sol2"]], int(row["label"]))


TASK = Task(
    name="piqa",
    version=1,
    tests="physical commonsense, two choices",
    source="PIQA (Bisk et al. 2020, arXiv:1911.11641); the validation split, since test answers are not public",
    prompt_reason="lm-evaluation-harness's own, to the letter. Divided by length, as its acc_norm is.",
    metric="accuracy_by_length",
    item=_item,
    # A copy without a loading script; ybisk/piqa no longer loads.
    hub=HubRows(path="baber/piqa", test_split="validation"),
    row_from_hub=_row_from_hub,
)
