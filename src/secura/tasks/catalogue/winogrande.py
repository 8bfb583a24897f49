"""WinoGrande: which of two names fills the blank.

lm-evaluation-harness scores the words after the blank, given the sentence up to it with one name
or the other filled in. A question of ours has one prompt for all its choices, so here a choice is
the name together with the words after it. That is the probability of the whole sentence: it also
counts how likely the name itself is, which the harness leaves out. Trinh and Le (2018,
arXiv:1806.02847) call the two "full" and "partial" and found partial the better of them by several
points, so expect scores below the harness's.
"""

from secura.tasks.catalogue.row_shapes import choice_row
from secura.tasks.question import Question
from secura.tasks.task import HubRows, Row, Task


def _item(row: Row) -> Question:
    before, _, after = row["question"].partition("_")
    choices = tuple(f"{name} {after.strip()}" for name in row["choices"])
    # A sentence may begin with its blank; without any context the first token would go unscored.
    return Question(prompt=before.rstrip() or "\n", choices=choices, answer=choices[row["answer"]])


def _row_from_hub(row: Row) -> Row | None:
    return choice_row(row["sentence"], [row["option1"], row["option2"]], int(row["answer"] or 0) - 1)


TASK = Task(
    name="winogrande",
    version=1,
    tests="which of two nouns a pronoun means, by commonsense",
    source="WinoGrande XL (Sakaguchi et al. 2020, arXiv:1907.10641); validation, since test answers are not public",
    prompt_reason=(
        "The sentence up to the blank, completed by a name and the rest. Summed, not divided by length: the rest is "
        "the same in both. lm-evaluation-harness scores the rest alone, given the name; see the module."
    ),
    metric="accuracy",
    item=_item,
    hub=HubRows(path="allenai/winogrande", config="winogrande_xl", test_split="validation"),
    row_from_hub=_row_from_hub,
)
