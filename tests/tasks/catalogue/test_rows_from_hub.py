"""The hub's columns, in rows made by hand, become the rows that the shared data hold."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from secura.tasks.catalogue import CATALOGUE
from secura.tasks.task import Row

Columns = Mapping[str, Any]
CHOICES = {"text": ["red", "blue", "green"], "label": ["A", "B", "C"]}


def from_hub(name: str, columns: Columns) -> Row | None:
    task = CATALOGUE[name]
    assert task.row_from_hub is not None
    return task.row_from_hub(columns)


CHOICE_ROW = {"question": "Sky?", "choices": ["red", "blue", "green"], "answer": 1}
CASES: list[tuple[str, Columns, Row | None]] = [
    (
        "logiqa",
        {"context": "Ann is late.", "query": "Who is late?", "options": ["Ann", "Eve"], "correct_option": 0},
        {"question": "Ann is late.\nWho is late?", "choices": ["Ann", "Eve"], "answer": 0},
    ),
    (
        "logiqa2",
        {
            "text": json.dumps(
                {
                    "id": 7,
                    "answer": 1,
                    "text": "Ann is\nlate.",
                    "question": "Who is not?",
                    "options": ["Ann", "Eve"],
                    "type": {"Categorical Reasoning": True},
                }
            )
        },
        {"question": "Ann is late.\nWho is not?", "choices": ["Ann", "Eve"], "answer": 1},
    ),
    (
        "logiqa2",
        {"text": json.dumps({"text": "安娜迟到了。", "question": "谁?", "options": ["安娜", "伊娃"], "answer": 0})},
        None,
    ),
    ("logiqa2", {"text": json.dumps({"major_premise": ["a"], "conclusion": "b", "label": "entailed"})}, None),
    ("logiqa2", {"text": '{"id": 7, "tex'}, None),
    (
        "social_iqa",
        {
            "context": "Ann gave Eve a gift.",
            "question": "How does Eve feel?",
            "answerA": "sad",
            "answerB": "glad",
            "answerC": "cold",
            "label": "2",
        },
        {
            "question": "Ann gave Eve a gift. How does Eve feel?",
            "choices": ["sad", "glad", "cold"],
            "answer": 1,
        },
    ),
    (
        "winogrande",
        {"sentence": "Ann waved at Eve because _ left.", "option1": "Ann", "option2": "Eve", "answer": "2"},
        {"question": "Ann waved at Eve because _ left.", "choices": ["Ann", "Eve"], "answer": 1},
    ),
    ("winogrande", {"sentence": "_ left.", "option1": "Ann", "option2": "Eve", "answer": ""}, None),
    (
        "commonsense_qa",
        {"id": "1", "question": "Sky?", "question_concept": "sky", "choices": CHOICES, "answerKey": "B"},
        CHOICE_ROW,
    ),
    (
        "commonsense_qa",
        {"id": "1", "question": "Sky?", "question_concept": "sky", "choices": CHOICES, "answerKey": ""},
        None,
    ),
    ("openbookqa", {"id": "1", "question_stem": "Sky?", "choices": CHOICES, "answerKey": "B"}, CHOICE_ROW),
    ("arc_easy", {"id": "1", "question": "Sky?", "choices": CHOICES, "answerKey": "B"}, CHOICE_ROW),
    (
        "arc_challenge",
        {
            "id": "1",
            "question": "Sky?",
            "choices": {"text": ["red", "blue", "green"], "label": ["1", "2", "3"]},
            "answerKey": "2",
        },
        CHOICE_ROW,
    ),
    (
        "boolq",
        {"passage": "Sky -- The sky is blue.", "question": "is the sky blue", "idx": 3, "label": 1},
        {
            "question": "Sky -- The sky is blue.\nQuestion: is the sky blue?",
            "choices": ["False", "True"],
            "answer": 1,
        },
    ),
    ("boolq", {"passage": "long " * 500, "question": "is it", "idx": 3, "label": 1}, None),
    ("boolq", {"passage": "Sky", "question": "is it", "idx": 3, "label": -1}, None),
    (
        "piqa",
        {"goal": "Open a jar", "sol1": "Turn the lid.", "sol2": "Ask it.", "label": 0},
        {"question": "Open a jar", "choices": ["Turn the lid.", "Ask it."], "answer": 0},
    ),
    ("piqa", {"goal": "Open a jar", "sol1": "Turn it.", "sol2": "Ask it.", "label": -1}, None),
    (
        "hellaswag",
        {
            "ind": 4,
            "activity_label": "Cooking",
            "ctx_a": "[header] How to boil an egg [title] Take a pot.",
            "ctx_b": "then",
            "ctx": "[header] How to boil an egg [title] Take a pot. then",
            "endings": ["fill it.", "[step] eat it.", "leave.", "sing."],
            "label": "0",
        },
        {
            "question": "Cooking: How to boil an egg. Take a pot. then",
            "choices": ["fill it.", "eat it.", "leave.", "sing."],
            "answer": 0,
        },
    ),
    (
        "hellaswag",
        {"activity_label": "Cooking", "ctx": "a", "endings": ["b", "c", "d", "e"], "label": ""},
        None,
    ),
    (
        "mmlu",
        {"question": "Sky?", "subject": "astronomy", "choices": ["red", "blue", "green"], "answer": 1},
        CHOICE_ROW,
    ),
    ("mmlu", {"question": "Sky?", "subject": "astronomy", "choices": ["blue", "blue"], "answer": 1}, None),
    (
        "gsm8k",
        {"question": "What is 3 plus 4?", "answer": "3+4 = <<3+4=7>>7\n#### 7"},
        {"prompt": "What is 3 plus 4?", "target": "3+4 = <<3+4=7>>7\n#### 7"},
    ),
    (
        "cnndm",
        {"article": "(CNN)Ann\nleft.", "highlights": "Ann left .\nShe is gone .", "id": "1"},
        {
            "prompt": "Summarize the following news article.\n\n(CNN)Ann left.",
            "target": "Ann left. She is gone.",
        },
    ),
    (
        "xsum",
        {"document": "Ann left.\nShe is gone.", "summary": "Ann has left.", "id": "1"},
        {
            "prompt": "Summarize the following news article.\n\nAnn left. She is gone.",
            "target": "Ann has left.",
        },
    ),
    ("xsum", {"document": " ", "summary": "Ann has left.", "id": "1"}, None),
    (
        "newsde",
        {"translation": {"de": "Anna ist weg.", "en": "Ann is gone."}},
        {
            "prompt": "Translate the following English news text into German.\n\nAnn is gone.",
            "target": "Anna ist weg.",
        },
    ),
    ("newsde", {"translation": {"de": "", "en": "Ann is gone."}}, None),
    ("newsde", {"translation": {"de": "Anna ist weg.", "en": ""}}, None),
    (
        "alpaca",
        {"instruction": "Sort these.", "input": "b, a", "output": "a, b", "text": "Below is ..."},
        {"prompt": "Sort these.\n\nb, a", "target": "a, b"},
    ),
    (
        "alpaca_gpt4",
        {"instruction": "Say hello.", "input": "", "output": "Hello.", "text": "Below is ..."},
        {"prompt": "Say hello.", "target": "Hello."},
    ),
    ("alpaca", {"instruction": "Say hello.", "input": "", "output": "", "text": ""}, None),
    ("alpaca", {"instruction": "Go on: " + "a" * 2000, "input": "", "output": "b", "text": ""}, None),
    (
        "qa_wikidata",
        {"idx": 1, "inputs": "The capital of Italy is", "targets": ["Rome", "Roma"], "multiple_choice_targets": []},
        {"prompt": "The capital of Italy is", "target": "Rome"},
    ),
    ("wikitext2", {"text": " = Rome = \n"}, None),
    ("wikitext2", {"text": ""}, None),
    ("wikitext2", {"text": " Rome is old . " * 20}, {"text": (" Rome is old . " * 20).strip()}),
    ("wikitext2", {"text": "Rome " * 900}, {"text": ("Rome " * 400).strip()}),
    ("tinystories", {"text": "One day, a dog sat.\n\nThe end.\n"}, {"text": "One day, a dog sat.\n\nThe end."}),
    (
        "bbh_boolean_expressions",
        {"input": "not ( True ) is", "target": "False"},
        {"prompt": "not ( True ) is", "target": "False"},
    ),
    (
        "bbh_date_understanding",
        {"input": "What is the date?\nOptions:\n(A) 01/02/1986\n(B) 01/09/1986", "target": "(B)"},
        {"question": "What is the date?", "choices": ["01/02/1986", "01/09/1986"], "answer": 1},
    ),
    (
        "bbh_formal_fallacies",
        {"input": "Is it valid?\nOptions:\n- valid \n- invalid", "target": "invalid"},
        {"question": "Is it valid?", "choices": ["valid", "invalid"], "answer": 1},
    ),
    ("bbh_ruin_names", {"input": "Which?\nOptions:\n(A) a\n(B) b", "target": "c"}, None),
]


@pytest.mark.parametrize(("name", "columns", "row"), CASES, ids=[f"{name}-{at}" for at, (name, *_) in enumerate(CASES)])
def test_the_hubs_columns_become_a_row(name: str, columns: Columns, row: Row | None) -> None:
    assert from_hub(name, columns) == row


def test_every_task_of_the_hub_is_tried_here() -> None:
    tried = {name for name, *_ in CASES}
    untried = {name for name, task in CATALOGUE.items() if task.hub is not None} - tried
    assert {name for name in untried if not name.startswith("bbh_")} == set()


def test_a_long_article_is_cut_at_a_word() -> None:
    row = from_hub("cnndm", {"article": "word " * 2000, "highlights": "Words.", "id": "1"})
    assert row is not None
    article = row["prompt"].partition("\n\n")[2]
    assert len(article) <= 4004
    assert article.endswith("word ...")


def _passage_and_question(row: Row) -> Columns:
    context, _, query = row["question"].partition("\n")
    return {"context": context, "query": query, "options": row["choices"], "correct_option": row["answer"]}


def _labelled(row: Row) -> Columns:
    labels = list("ABCDEFGH"[: len(row["choices"])])
    return {"choices": {"text": row["choices"], "label": labels}, "answerKey": labels[row["answer"]]}


def _boolq(row: Row) -> Columns:
    passage, _, question = row["question"].partition("\nQuestion: ")
    return {"passage": passage, "question": question.removesuffix("?"), "label": row["answer"]}


def _options(row: Row) -> Columns:
    listed = "\n".join(f"({'ABCDEFGHIJKLMNOPQR'[at]}) {choice}" for at, choice in enumerate(row["choices"]))
    return {"input": f"{row['question']}\nOptions:\n{listed}", "target": f"({'ABCDEFGHIJKLMNOPQR'[row['answer']]})"}


def _translation(row: Row) -> Columns:
    return {"translation": {"en": row["prompt"].partition("\n\n")[2], "de": row["target"]}}


BACK: dict[str, Callable[[Row], Columns]] = {
    "logiqa": _passage_and_question,
    "logiqa2": lambda row: {
        "text": json.dumps(
            {
                "text": row["question"].partition("\n")[0],
                "question": row["question"].partition("\n")[2],
                "options": row["choices"],
                "answer": row["answer"],
            }
        )
    },
    "winogrande": lambda row: {
        "sentence": row["question"],
        "option1": row["choices"][0],
        "option2": row["choices"][1],
        "answer": str(row["answer"] + 1),
    },
    "commonsense_qa": lambda row: {"question": row["question"], **_labelled(row)},
    "openbookqa": lambda row: {"question_stem": row["question"], **_labelled(row)},
    "arc_easy": lambda row: {"question": row["question"], **_labelled(row)},
    "boolq": _boolq,
    "piqa": lambda row: {
        "goal": row["question"],
        "sol1": row["choices"][0],
        "sol2": row["choices"][1],
        "label": row["answer"],
    },
    "mmlu": dict,
    "gsm8k": lambda row: {"question": row["prompt"], "answer": row["target"]},
    "xsum": lambda row: {"document": row["prompt"].partition("\n\n")[2], "summary": row["target"]},
    "newsde": _translation,
    "bbh_snarks": _options,
    "bbh_penguins_in_a_table": _options,
    "bbh_reasoning_about_colored_objects": _options,
    "tinystories": dict,
}


@pytest.mark.parametrize("name", BACK)
def test_a_shared_row_put_into_the_hubs_columns_comes_back(name: str, shared_data: Path) -> None:
    lines = [line for line in (shared_data / f"{name}.test.jsonl").read_text(encoding="utf-8").split("\n") if line]
    rows = [json.loads(line) for line in lines]
    wrong = [(row, back) for row in rows if (back := from_hub(name, BACK[name](row))) != row]
    assert wrong[:3] == []
