"""OpenBookQA: elementary science facts, applied."""

from secura.tasks.catalogue.row_shapes import choice_question, labelled_row
from secura.tasks.question import Question
from secura.tasks.task import HubRows, Row, Task


def _item(row: Row) -> Question:
    return choice_question(row, row["question"])


def _row_from_hub(row: Row) -> Row | None:
    return labelled_row(row["question_stem"], row["choices"], row["answerKey"])


TASK = Task(
    name="openbookqa",
    version=1,
    tests="elementary science facts applied to a new situation",
    source="OpenBookQA (Mihaylov et al. 2018, arXiv:1809.02789), without the book",
    prompt_reason=(
        "lm-evaluation-harness's own, to the letter: the bare stem, which the choices complete. Divided by length, "
        "since choices run from one word to a clause."
    ),
    metric="accuracy_by_length",
    item=_item,
    hub=HubRows(path="allenai/openbookqa", config="main"),
    row_from_hub=_row_from_hub,
)
