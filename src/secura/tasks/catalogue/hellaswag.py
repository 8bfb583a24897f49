"""HellaSwag: how a description goes on."""

import re

from secura.tasks.catalogue.row_shapes import choice_question, choice_row
from secura.tasks.question import Question
from secura.tasks.task import HubRows, Row, Task


def _item(row: Row) -> Question:
    return choice_question(row, row["question"])


def _row_from_hub(row: Row) -> Row | None:
    question = _without_marks(f"{row['activity_label']}: {row['ctx']}")
    answer = int(row["label"]) if str(row["label"]).strip() else -1
    return choice_row(question, [_without_marks(ending) for ending in row["endings"]], answer)


def _without_marks(text: str) -> str:
    """Without WikiHow's marks in square brackets, as lm-evaluation-harness cleans it."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


TASK = Task(
    name="hellaswag",
    version=1,
    tests="which of four endings goes on plausibly",
    source="HellaSwag (Zellers et al. 2019, arXiv:1905.07830); the validation split, since test answers are not public",
    prompt_reason=(
        "lm-evaluation-harness's own but for one letter: it begins the context's last, unfinished sentence with a "
        "capital, where the data set's own text is kept here. Divided by length, since endings differ in it."
    ),
    metric="accuracy_by_length",
    item=_item,
    hub=HubRows(path="Rowan/hellaswag", test_split="validation"),
    row_from_hub=_row_from_hub,
)
