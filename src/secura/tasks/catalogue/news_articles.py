"""How a news article stands in a prompt that asks for a summary."""

import re

from secura.tasks.catalogue.row_shapes import answer_row, one_line
from secura.tasks.task import Row

_LONGEST_ARTICLE = 4000
"""Characters; about 900 tokens, so that article and summary fit a context of 1,024 or little more."""


def summary_row(article: str, summary: str) -> Row | None:
    """A row that asks for a summary; the article on one line, cut at 4,000 characters."""
    article = re.sub(r"[ \t]+", " ", one_line(article))
    if not article:
        return None
    if len(article) > _LONGEST_ARTICLE:
        article = article[:_LONGEST_ARTICLE].rsplit(" ", 1)[0] + " ..."
    return answer_row(f"Summarize the following news article.\n\n{article}", one_line(summary))
