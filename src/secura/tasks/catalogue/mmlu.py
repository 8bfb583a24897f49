"""MMLU: school and university subjects."""

from secura.tasks.catalogue.row_shapes import choice_row, letter_question, lettered
from secura.tasks.question import Question
from secura.tasks.task import HubRows, Row, Task


def _item(row: Row) -> Question:
    return letter_question(row, f"{row['question'].strip()}\n{lettered(row['choices'])}\nAnswer:")


def _row_from_hub(row: Row) -> Row | None:
    return choice_row(row["question"], row["choices"], int(row["answer"]))


TASK = Task(
    name="mmlu",
    version=1,
    tests="knowledge of 57 school and university subjects",
    source="MMLU (Hendrycks et al. 2021, arXiv:2009.03300)",
    prompt_reason=(
        "lm-evaluation-harness's own without its first line, which names the subject: rows do not always say it. "
        "Zero-shot, where published scores are mostly five-shot; choices in the prompt, answered by letter."
    ),
    metric="accuracy",
    item=_item,
    hub=HubRows(path="cais/mmlu", config="all", train_split=None),
    row_from_hub=_row_from_hub,
)
