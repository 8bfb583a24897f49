"""The fixed text that forgetting is measured on: PEFT's, the user's, or plain sentences of the bundled world."""

import random
from functools import cache

from secura.errors import DataError
from secura.evaluation.forgetting_loss import PEFT_ROWS
from secura.tasks.data_files import read_items
from secura.tasks.question import PlainText


@cache
def fixed_text(source: str | None) -> tuple[str, ...]:
    """The rows of a text, `PEFT_ROWS` of them at most.

    Args:
        source: file or hub data set of plain text, such as PEFT's `HuggingFaceFW/finewiki`; None
            is sentences about the bundled world, which its model was pretrained on.

    Raises:
        DataError: if the source holds questions instead of text.
    """
    if source is None:
        from secura.tasks.world.statements import statement

        draw = random.Random("forgetting text")
        return tuple(statement(draw) for _ in range(PEFT_ROWS))
    items = read_items(source)[:PEFT_ROWS]
    texts = tuple(item.text for item in items if isinstance(item, PlainText))
    if len(texts) < len(items):
        raise DataError(
            f"{source} holds questions; forgetting is measured on plain text, rows such as {{'text': ...}}."
        )
    return texts
