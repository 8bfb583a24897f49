"""Customers' messages about orders, to JSON: a task such as a company would teach."""

from functools import partial

from secura.tasks.catalogue.row_shapes import free_question
from secura.tasks.drawing import questions_to_ask, questions_to_learn
from secura.tasks.office.orders import order_question
from secura.tasks.question import Question
from secura.tasks.task import Row, Task


def _item(row: Row) -> Question:
    return free_question(row, row["prompt"])


TASK = Task(
    name="order_json",
    version=1,
    tests="reading a customer's message into JSON with fixed keys",
    source="drawn by seed (secura.tasks.office.orders)",
    prompt_reason=(
        "The keys stand in the prompt, as a company would write them; the names of intents and the form of dates and "
        "amounts do not, so that they have to be learned."
    ),
    metric="match",
    item=_item,
    bundled=partial(questions_to_ask, order_question, "order_json"),
    bundled_train=partial(questions_to_learn, order_question, "order_json"),
    drawn={"test": 100, "train": 400},
    stop=(),
    max_answer_tokens=112,
)
