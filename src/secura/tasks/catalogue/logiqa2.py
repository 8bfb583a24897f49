"""LogiQA 2.0: the exams of LogiQA translated again, and more of them."""

import json

from secura.tasks.catalogue.row_shapes import choice_question, choice_row, lettered, one_line
from secura.tasks.question import Question
from secura.tasks.task import HubRows, Row, Task

_FIRST_CJK = "\u2e80"
_SHARE_OF_CJK_IN_CHINESE = 0.1


def _item(row: Row) -> Question:
    passage, _, question = row["question"].rpartition("\n")
    return choice_question(row, f"Passage: {passage}\nQuestion: {question}\n{lettered(row['choices'])}\nAnswer:")


def _row_from_hub(row: Row) -> Row | None:
    """A hub row is one line of JSON; the English questions stand among Chinese ones and inference pairs."""
    try:
        source = json.loads(row["text"])
        passage, question = (one_line(source[key]) for key in ("text", "question"))
        options, answer = source["options"], int(source["answer"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if sum(character >= _FIRST_CJK for character in passage) > _SHARE_OF_CJK_IN_CHINESE * len(passage):
        return None
    return choice_row(f"{passage}\n{question}", options, answer)


TASK = Task(
    name="logiqa2",
    version=1,
    tests="logical reasoning over a passage; civil-service exams in a better translation",
    source="LogiQA 2.0 (Liu et al. 2023, doi:10.1109/TASLP.2023.3293046)",
    prompt_reason=(
        "lm-evaluation-harness's own, to the letter; it lacks the line `Choices:` that its LogiQA has. Each choice is "
        "scored by the likelihood of its text."
    ),
    metric="accuracy",
    item=_item,
    hub=HubRows(path="datatune/LogiQA2.0"),
    row_from_hub=_row_from_hub,
)
