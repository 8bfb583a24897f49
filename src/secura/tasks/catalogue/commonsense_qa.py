"""CommonsenseQA: everyday concepts, five choices."""

from secura.tasks.catalogue.row_shapes import labelled_row, letter_question, lettered
from secura.tasks.question import Question
from secura.tasks.task import HubRows, Row, Task


def _item(row: Row) -> Question:
    return letter_question(row, f"Question: {row['question']}\n{lettered(row['choices'])}\nAnswer:")


def _row_from_hub(row: Row) -> Row | None:
    return labelled_row(row["question"], row["choices"], row["answerKey"])


TASK = Task(
    name="commonsense_qa",
    version=1,
    tests="commonsense about everyday concepts, five choices",
    source="CommonsenseQA (Talmor et al. 2019, arXiv:1811.00937); validation, since test answers are not public",
    prompt_reason="lm-evaluation-harness's own, to the letter: choices in the prompt, answered by letter.",
    metric="accuracy",
    item=_item,
    hub=HubRows(path="tau/commonsense_qa", test_split="validation"),
    row_from_hub=_row_from_hub,
)
