"""Prompts are lm-evaluation-harness's own, to the letter, wherever a task says so."""

import importlib.util
import json
import re
import string
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from secura.tasks.catalogue import CATALOGUE
from secura.tasks.finding import GROUPS
from secura.tasks.question import Question
from secura.tasks.task import Row

Doc = Mapping[str, Any]
ROWS = 50


@pytest.fixture(scope="module")
def harness_tasks() -> Path:
    found = importlib.util.find_spec("lm_eval")
    if found is None or found.origin is None:
        pytest.skip("lm-evaluation-harness is not installed")
    return Path(found.origin).parent / "tasks"


def _settings(file: Path) -> dict[str, Any]:
    """A task's YAML, its `!function` values as `file.name`, on top of what it includes."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))  # type: ignore[arg-type]
    own = yaml.load(file.read_text(), Loader=Loader)
    included = own.pop("include", None)
    return {**(_settings(file.parent / included) if included else {}), **own}


def _rendered(template: str, doc: Doc, folder: Path) -> Any:
    """What the harness makes of `doc_to_text`: a column, a template, or a function of its own."""
    if re.fullmatch(r"\w+\.\w+", template):
        module, _, name = template.partition(".")
        spec = importlib.util.spec_from_file_location(module, folder / f"{module}.py")
        assert spec is not None
        assert spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return getattr(loaded, name)(doc)
    if template in doc:
        return doc[template]
    return jinja2.Template(template, keep_trailing_newline=True).render(doc)


def _labelled(row: Row, question: str) -> Doc:
    letters = list(string.ascii_uppercase[: len(row["choices"])])
    return {
        question: row["question"],
        "choices": {"text": row["choices"], "label": letters},
        "answerKey": letters[row["answer"]],
    }


def _passage(row: Row, name: str) -> Doc:
    passage, _, question = row["question"].partition("\n")
    return {name: passage, "question": question, "options": row["choices"]}


def _boolq(row: Row) -> Doc:
    passage, _, question = row["question"].partition("\nQuestion: ")
    return {"passage": passage, "question": question.removesuffix("?"), "label": row["answer"]}


SAME: dict[str, tuple[str, Callable[[Row], Doc]]] = {
    "logiqa": ("logiqa/logiqa.yaml", lambda row: _passage(row, "context")),
    "logiqa2": ("logiqa2/logiqa2.yaml", lambda row: _passage(row, "text")),
    "social_iqa": ("siqa/siqa.yaml", lambda row: {"context": row["question"], "question": ""}),
    "commonsense_qa": ("commonsense_qa/default.yaml", lambda row: _labelled(row, "question")),
    "openbookqa": ("openbookqa/openbookqa.yaml", lambda row: _labelled(row, "question_stem")),
    "arc_easy": ("arc/arc_easy.yaml", lambda row: _labelled(row, "question")),
    "arc_challenge": ("arc/arc_challenge.yaml", lambda row: _labelled(row, "question")),
    "boolq": ("super_glue/boolq/default.yaml", _boolq),
    "piqa": ("piqa/piqa.yaml", lambda row: {"goal": row["question"]}),
    "mmlu": ("mmlu/default/mmlu_anatomy.yaml", lambda row: {"question": row["question"], "choices": row["choices"]}),
    "gsm8k": ("gsm8k/gsm8k.yaml", lambda row: {"question": row["prompt"], "answer": row["target"]}),
}


@pytest.mark.parametrize("name", SAME)
def test_the_prompt_is_the_harness_own(name: str, shared_data: Path, harness_tasks: Path) -> None:
    file, doc_of = SAME[name]
    settings = _settings(harness_tasks / file)
    lines = (shared_data / f"{name}.test.jsonl").read_text(encoding="utf-8").split("\n")[:ROWS]
    for row in map(json.loads, lines):
        theirs = _rendered(settings["doc_to_text"], doc_of(row), (harness_tasks / file).parent)
        item = CATALOGUE[name].item(row)
        assert isinstance(item, Question)
        # Social IQA's context and question cannot be told apart in a row of ours, so the empty one leaves a space.
        assert item.prompt == theirs.replace(" \nA:", "\nA:") if name == "social_iqa" else item.prompt == theirs


@pytest.mark.parametrize("name", ["commonsense_qa", "mmlu", "boolq"])
def test_answers_are_the_harness_own_where_they_are_not_the_choices_themselves(
    name: str, shared_data: Path, harness_tasks: Path
) -> None:
    settings = _settings(harness_tasks / SAME[name][0])
    row = json.loads((shared_data / f"{name}.test.jsonl").read_text(encoding="utf-8").split("\n")[0])
    item = CATALOGUE[name].item(row)
    assert isinstance(item, Question)
    assert list(item.choices) == settings["doc_to_choice"]
    assert item.answer == item.choices[row["answer"]]


def test_gsm8k_stops_where_the_harness_stops(harness_tasks: Path) -> None:
    settings = _settings(harness_tasks / SAME["gsm8k"][0])
    assert list(CATALOGUE["gsm8k"].stop) == settings["generation_kwargs"]["until"]


def test_bbh_questions_are_put_together_as_they_were_published(harness_tasks: Path) -> None:
    """The harness's leaderboard carries three published questions of each task as examples."""
    seen = 0
    for file in sorted((harness_tasks / "leaderboard" / "bbh_mc").glob("*.yaml")):
        settings = _settings(file)
        task = CATALOGUE.get(f"bbh_{settings.get('dataset_name')}")
        if task is None or task.row_from_hub is None:
            continue
        for sample in settings["fewshot_config"]["samples"]:
            row = task.row_from_hub(sample)
            assert row is not None
            item = task.item(row)
            assert isinstance(item, Question)
            assert item.prompt.partition("\n\n")[2] == f"Q: {sample['input']}\nA:"
            assert item.answer == sample["target"]
            assert set(item.choices) <= set(map(str, settings["doc_to_choice"]))
            seen += 1
    assert seen >= 60


def test_bbh_instructions_are_the_published_ones(harness_tasks: Path) -> None:
    seen = 0
    for file in sorted((harness_tasks / "bbh" / "zeroshot").glob("*.yaml")):
        settings = _settings(file)
        task = CATALOGUE.get(f"bbh_{settings.get('dataset_name')}")
        if task is None:
            continue
        row = (
            {"question": "?", "choices": ["a", "b"], "answer": 0}
            if task.kind == "choice"
            else {"prompt": "?", "target": "a"}
        )
        item = task.item(row)
        assert isinstance(item, Question)
        own, _, _ = item.prompt.partition("\n\n")
        # Of snarks, the harness goes on to define sarcasm; its temporal_sequences begins with a heading.
        assert own == settings["description"].partition("\n\n")[0].removeprefix("Task description: ")
        seen += 1
    assert seen == len(GROUPS["bbh"])
