"""XSum: a news article in one sentence."""

from secura.tasks.catalogue.news_articles import summary_row
from secura.tasks.catalogue.row_shapes import free_question
from secura.tasks.question import Question
from secura.tasks.task import HubRows, Row, Task


def _item(row: Row) -> Question:
    return free_question(row, f"{row['prompt']}\n\nSummary in one sentence:")


def _row_from_hub(row: Row) -> Row | None:
    return summary_row(row["document"], row["summary"])


TASK = Task(
    name="xsum",
    version=1,
    tests="summing up a BBC article in one sentence",
    source="XSum (Narayan et al. 2018, arXiv:1808.08745)",
    prompt_reason=(
        "An instruction, the article, and a cue that asks for one sentence: without the cue a base model goes on "
        "with the article, and without `one sentence` ROUGE counts length. Articles are cut at 4,000 characters."
    ),
    metric="rougeL",
    item=_item,
    # The hub's own export, which is there whether or not the repository still has a loading script.
    hub=HubRows(path="EdinburghNLP/xsum", revision="refs/convert/parquet"),
    row_from_hub=_row_from_hub,
    max_answer_tokens=64,
)
