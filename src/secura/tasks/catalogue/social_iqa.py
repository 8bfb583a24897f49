"""Social IQA: what people do, feel and want."""

from secura.tasks.catalogue.row_shapes import choice_question, choice_row
from secura.tasks.question import Question
from secura.tasks.task import HubRows, Row, Task


def _item(row: Row) -> Question:
    return choice_question(row, f"Q: {row['question']}\nA:")


def _row_from_hub(row: Row) -> Row | None:
    choices = [row["answerA"], row["answerB"], row["answerC"]]
    return choice_row(f"{row['context'].strip()} {row['question'].strip()}", choices, int(row["label"] or 0) - 1)


TASK = Task(
    name="social_iqa",
    version=1,
    tests="social commonsense, three choices",
    source="Social IQa (Sap et al. 2019, arXiv:1904.09728); the validation split, since test answers are not public",
    prompt_reason="lm-evaluation-harness's own, to the letter; it reports summed likelihood alone, and so is ours.",
    metric="accuracy",
    item=_item,
    # A copy without a loading script; allenai/social_i_qa no longer loads.
    hub=HubRows(path="lighteval/siqa", test_split="validation"),
    row_from_hub=_row_from_hub,
)
