"""WikiText-2: the loss on encyclopaedic text.

The text keeps the data set's marks (`<unk>`, `@-@`), and perplexity is per token of the model's
own tokenizer: it compares a model with its fine-tuned self, not two models with different
tokenizers. lm-evaluation-harness removes the marks and counts per word.
"""

from secura.tasks.catalogue.row_shapes import plain_text
from secura.tasks.task import HubRows, Row, Task

_SHORTEST, _LONGEST = 200, 2000
"""Characters; shorter paragraphs are left out, longer ones cut."""


def _row_from_hub(row: Row) -> Row | None:
    text = row["text"].strip()
    if len(text) < _SHORTEST or text.startswith("= "):
        return None
    return {"text": text[:_LONGEST].rstrip()}


TASK = Task(
    name="wikitext2",
    version=1,
    tests="language modelling of encyclopaedic text",
    source="WikiText-2 (Merity et al. 2016, arXiv:1609.07843)",
    prompt_reason="No prompt: the text as it stands, up to 2,000 characters of one article.",
    metric="perplexity",
    item=plain_text,
    hub=HubRows(path="Salesforce/wikitext", config="wikitext-2-v1"),
    row_from_hub=_row_from_hub,
)
