"""Rows and metrics of exported tasks, for lm-evaluation-harness.

`secura.evaluation.lm_eval_bridge` copies this file into the folder of every export, where the
YAML files beside it name its functions; it reads the rows that lie beside it, so the folder
may be moved. Only the metrics of generated answers need secura installed.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def rows(secura_task: str, **settings: Any) -> Any:
    """The rows of one task, as its only split `test`; the harness also passes settings of its own."""
    del settings
    import datasets

    lines = (Path(__file__).parent / f"{secura_task}.jsonl").read_text(encoding="utf-8").split("\n")
    return datasets.DatasetDict({"test": datasets.Dataset.from_list([json.loads(line) for line in lines if line])})


def exact_match(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Equal once both are stripped."""
    from secura.evaluation import text_metrics

    return {"exact_match": float(text_metrics.exact_match(results[0].strip(), doc["target"]))}


def match(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Right by the row's own rule."""
    from secura.evaluation.answer_match import fits

    return {"match": float(fits(doc["match"], results[0].strip(), doc["accept"]))}


def number_match(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """The same number."""
    from secura.evaluation import text_metrics

    return {"number_match": float(text_metrics.number_match(results[0].strip(), doc["target"]))}


def overlap(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """ROUGE-1 and ROUGE-L."""
    from secura.evaluation import text_metrics

    return text_metrics.rouge(results[0].strip(), doc["target"])


def translation(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, tuple[str, str]]:
    """What the harness makes corpus BLEU and chrF of, times 100."""
    pair = (doc["target"], results[0].strip())
    return {"bleu": pair, "chrf": pair}
