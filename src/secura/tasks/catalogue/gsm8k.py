"""GSM8K: arithmetic in words, solved in steps."""

from secura.tasks.catalogue.row_shapes import answer_row, free_question
from secura.tasks.question import Question
from secura.tasks.task import HubRows, Row, Task


def _item(row: Row) -> Question:
    return free_question(row, f"Question: {row['prompt']}\nAnswer:")


def _row_from_hub(row: Row) -> Row | None:
    return answer_row(row["question"], row["answer"])


TASK = Task(
    name="gsm8k",
    version=1,
    tests="grade-school arithmetic word problems",
    source="GSM8K (Cobbe et al. 2021, arXiv:2110.14168), with its `<<...>>` calculator marks as published",
    prompt_reason=(
        "lm-evaluation-harness's own, to the letter, with its stop strings and its 256 tokens; zero-shot, where its "
        "default is five-shot. The right answer is the worked solution, so that training on it teaches the steps; "
        "only the number it ends in is compared."
    ),
    metric="number_match",
    item=_item,
    hub=HubRows(path="openai/gsm8k", config="main"),
    row_from_hub=_row_from_hub,
    stop=("Question:", "</s>", "<|im_end|>"),
    max_answer_tokens=256,
)
