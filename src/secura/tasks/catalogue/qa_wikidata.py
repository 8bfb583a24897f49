"""Facts of Wikidata, each as a sentence to complete."""

from secura.tasks.catalogue.row_shapes import answer_row, free_question
from secura.tasks.question import Question
from secura.tasks.task import HubRows, Row, Task


def _item(row: Row) -> Question:
    return free_question(row, row["prompt"])


def _row_from_hub(row: Row) -> Row | None:
    prompt = row["inputs"].strip().removeprefix("Q:").removesuffix("A:")
    return answer_row(prompt, row["targets"][0] if row["targets"] else "")


TASK = Task(
    name="qa_wikidata",
    version=1,
    tests="basic knowledge: countries, languages, capitals of things and people",
    source="BIG-bench qa_wikidata (Srivastava et al. 2022, arXiv:2206.04615)",
    prompt_reason=(
        "The sentence as it stands, which any language model can complete. A full stop or a comma ends the answer too: "
        "a base model goes on with the sentence, and no right answer holds either."
    ),
    metric="exact_match",
    item=_item,
    hub=HubRows(path="hails/bigbench", config="qa_wikidata_zero_shot", test_split="validation"),
    row_from_hub=_row_from_hub,
    stop=("\n", ".", ","),
    max_answer_tokens=16,
)
