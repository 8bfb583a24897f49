"""ARC, the easy set: grade-school science."""

from secura.tasks.catalogue.row_shapes import choice_question, labelled_row
from secura.tasks.question import Question
from secura.tasks.task import HubRows, Row, Task


def _item(row: Row) -> Question:
    return choice_question(row, f"Question: {row['question']}\nAnswer:")


def _row_from_hub(row: Row) -> Row | None:
    return labelled_row(row["question"], row["choices"], row["answerKey"])


TASK = Task(
    name="arc_easy",
    version=1,
    tests="grade-school science, questions that a search engine answers",
    source="AI2 Reasoning Challenge, easy set (Clark et al. 2018, arXiv:1803.05457)",
    prompt_reason=(
        "lm-evaluation-harness's own, to the letter: the choices are not shown, so that a base model is asked what "
        "it knows and not what a letter means. Divided by length, since choices differ in it."
    ),
    metric="accuracy_by_length",
    item=_item,
    hub=HubRows(path="allenai/ai2_arc", config="ARC-Easy"),
    row_from_hub=_row_from_hub,
)
