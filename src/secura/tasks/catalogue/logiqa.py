"""LogiQA: logical reasoning over a short passage."""

from secura.tasks.catalogue.row_shapes import choice_question, choice_row, lettered, one_line
from secura.tasks.question import Question
from secura.tasks.task import HubRows, Row, Task


def _item(row: Row) -> Question:
    passage, _, question = row["question"].rpartition("\n")
    listed = lettered(row["choices"])
    return choice_question(row, f"Passage: {passage}\nQuestion: {question}\nChoices:\n{listed}\nAnswer:")


def _row_from_hub(row: Row) -> Row | None:
    passage, question = (one_line(row[column]) for column in ("context", "query"))
    return choice_row(f"{passage}\n{question}", row["options"], int(row["correct_option"]))


TASK = Task(
    name="logiqa",
    version=1,
    tests="logical reasoning over a passage; machine-translated civil-service exams",
    source="LogiQA (Liu et al. 2020, arXiv:2007.08124)",
    prompt_reason=(
        "lm-evaluation-harness's own, to the letter: the choices stand in the prompt, and each is scored by the "
        "likelihood of its text, not of its letter."
    ),
    metric="accuracy",
    item=_item,
    # The repository's loading script no longer loads; this is the hub's own export of it.
    hub=HubRows(path="lucasmccabe/logiqa", revision="refs/convert/parquet"),
    row_from_hub=_row_from_hub,
)
