"""News translated from English into German (WMT).

What the hub holds are older test sets than WMT21, on which scores of recent models are usually
given: newstest2016 to score and newstest2015 to learn from, half of either translated from German.
A score on one set says nothing about a score on the other.
"""

from secura.tasks.catalogue.row_shapes import answer_row, free_question, one_line
from secura.tasks.question import Question
from secura.tasks.task import HubRows, Row, Task


def _item(row: Row) -> Question:
    return free_question(row, f"{row['prompt']}\n\nGerman:")


def _row_from_hub(row: Row) -> Row | None:
    pair = row["translation"]
    english, german = (one_line(pair[language]) for language in ("en", "de"))
    if not english:
        return None
    return answer_row(f"Translate the following English news text into German.\n\n{english}", german)


TASK = Task(
    name="newsde",
    version=1,
    tests="translating news from English into German",
    source="WMT news translation (WMT21: Akhbardeh et al. 2021; on the hub WMT16: Bojar et al. 2016)",
    prompt_reason=(
        "An instruction, the text, and `German:`, without which a base model goes on in English. BLEU for comparison "
        "with what is published; chrF, which suits German compounds better, is computed beside it."
    ),
    metric="bleu",
    item=_item,
    # The training split would be 4.5 million pairs, few of them news.
    hub=HubRows(path="wmt/wmt16", config="de-en", train_split="validation"),
    row_from_hub=_row_from_hub,
    max_answer_tokens=256,
)
