"""TinyStories: the loss on simple children's stories."""

from secura.tasks.catalogue.row_shapes import plain_text
from secura.tasks.task import HubRows, Row, Task

_LONGEST = 2000
"""Characters; longer stories are cut."""


def _row_from_hub(row: Row) -> Row | None:
    text = row["text"].strip()
    return {"text": text[:_LONGEST].rstrip()} if text else None


TASK = Task(
    name="tinystories",
    version=1,
    tests="language modelling of simple stories",
    source="TinyStories (Eldan and Li 2023, arXiv:2305.07759)",
    prompt_reason="No prompt: the story as it stands, up to 2,000 characters.",
    metric="perplexity",
    item=plain_text,
    hub=HubRows(path="roneneldan/TinyStories", test_split="validation"),
    row_from_hub=_row_from_hub,
)
