"""CNN/DailyMail: a news article in three or four sentences."""

from secura.tasks.catalogue.news_articles import summary_row
from secura.tasks.catalogue.row_shapes import free_question
from secura.tasks.question import Question
from secura.tasks.task import HubRows, Row, Task


def _item(row: Row) -> Question:
    return free_question(row, f"{row['prompt']}\n\nSummary:")


def _row_from_hub(row: Row) -> Row | None:
    return summary_row(row["article"], row["highlights"].replace(" .", "."))


TASK = Task(
    name="cnndm",
    version=1,
    tests="summing up a news article in a few sentences",
    source="CNN/DailyMail 3.0.0 (Hermann et al. 2015, arXiv:1506.03340; See et al. 2017, arXiv:1704.04368)",
    prompt_reason=(
        "An instruction, the article, and `Summary:`, without which a base model goes on with the article. Articles "
        "are cut at 4,000 characters, so that they fit a short context; news puts what matters first."
    ),
    metric="rougeL",
    item=_item,
    hub=HubRows(path="abisee/cnn_dailymail", config="3.0.0"),
    row_from_hub=_row_from_hub,
    max_answer_tokens=128,
)
