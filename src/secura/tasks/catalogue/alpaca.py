"""Alpaca: following instructions of many kinds.

There is no one right answer here: ROUGE-L against the reference says how far a model drifts from
answers of that style, not how good an answer is.
"""

from secura.tasks.catalogue.row_shapes import answer_row, free_question
from secura.tasks.question import Question
from secura.tasks.task import HubRows, Row, Task

_LONGEST_PROMPT, _LONGEST_ANSWER = 2000, 3000
"""Characters; longer rows are left out."""


def _item(row: Row) -> Question:
    return free_question(row, f"### Instruction:\n{row['prompt']}\n\n### Response:\n")


def _row_from_hub(row: Row) -> Row | None:
    parts = [part.strip() for part in (row["instruction"], row["input"])]
    prompt = "\n\n".join(part for part in parts if part)
    if len(prompt) > _LONGEST_PROMPT or len(row["output"]) > _LONGEST_ANSWER:
        return None
    return answer_row(prompt, row["output"])


TASK = Task(
    name="alpaca",
    version=1,
    tests="following instructions, answers by text-davinci-003",
    source="Stanford Alpaca (Taori et al. 2023, github.com/tatsu-lab/stanford_alpaca)",
    prompt_reason=(
        "Alpaca's own headings, without its opening sentence and with the input as part of the instruction. An answer "
        "may hold line breaks, so it ends at the next heading."
    ),
    metric="rougeL",
    item=_item,
    # The data set has one split; the first thousand rows are for scoring, here and in alpaca_gpt4,
    # which asks the same instructions in the same order.
    hub=HubRows(path="tatsu-lab/alpaca", test_split="train[:1000]", train_split="train[1000:]"),
    row_from_hub=_row_from_hub,
    stop=("### Instruction",),
    max_answer_tokens=256,
)
