"""BoolQ: yes or no, given a passage."""

from secura.tasks.catalogue.row_shapes import choice_row
from secura.tasks.question import Question
from secura.tasks.task import HubRows, Row, Task

_SAID = {"False": "no", "True": "yes"}
_LONGEST_PASSAGE = 2000
"""Characters; longer passages are left out."""


def _item(row: Row) -> Question:
    choices = tuple(_SAID[choice] for choice in row["choices"])
    return Question(prompt=f"{row['question']}\nAnswer:", choices=choices, answer=choices[row["answer"]])


def _row_from_hub(row: Row) -> Row | None:
    if len(row["passage"]) > _LONGEST_PASSAGE:
        return None
    return choice_row(f"{row['passage']}\nQuestion: {row['question']}?", tuple(_SAID), int(row["label"]))


TASK = Task(
    name="boolq",
    version=1,
    tests="reading comprehension, yes or no; 62 % of answers are yes",
    source="BoolQ (Clark et al. 2019, arXiv:1905.10044) as in SuperGLUE, which puts the title before each passage",
    prompt_reason="lm-evaluation-harness's own, to the letter.",
    metric="accuracy",
    item=_item,
    # google/boolq is the same without titles, and so another prompt.
    hub=HubRows(path="aps/super_glue", config="boolq", test_split="validation"),
    row_from_hub=_row_from_hub,
)
