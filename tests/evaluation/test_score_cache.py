import json
from dataclasses import replace
from pathlib import Path

import pytest
from made_results import made_score, made_task
from tiny_models import tiny_tokenizer

from secura.evaluation.score_cache import ScoreCache, ScoreKey, cache_folder, score_key
from secura.evaluation.task_score import TaskScore
from secura.tasks.question import Item, PlainText, Question

TASK = made_task("older", "accuracy")
ITEMS: list[Item] = [
    Question(prompt=f"Who is older, {name} or Ann?", answer=name, choices=(name, "Ann")) for name in ("Bo", "Cy", "Di")
]
FREE = [Question(prompt="Who is older?", answer="Bo")]
SCORE = made_score(TASK, ITEMS, [1.0, 0.0, 1.0], "Ann")


def _key(**changed) -> ScoreKey:
    settings = {
        "model": "fingerprint",
        "arithmetic": "torch.float32 on cpu",
        "task": TASK,
        "items": ITEMS,
        "tokenizer": tiny_tokenizer(),
        "scoring": 2,
        **changed,
    }
    return score_key(**settings)


def _stored(folder: Path) -> tuple[ScoreCache, Path]:
    cache = ScoreCache(folder=folder)
    cache.store(_key(), SCORE)
    return cache, cache.path(_key(), "older")


def test_a_stored_score_comes_back_with_its_questions(tmp_path: Path) -> None:
    cache, _ = _stored(tmp_path)
    assert cache.load(_key(), "older", ITEMS) == SCORE  # likelihoods of minus infinity included
    assert cache.notes == []


def test_nothing_but_the_score_is_left_in_the_folder(tmp_path: Path) -> None:
    _, path = _stored(tmp_path)
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == [path]


def test_a_rule_makes_another_key_and_a_question_without_one_keeps_the_key_of_earlier_releases() -> None:
    ruled = [
        replace(FREE[0], **rule) for rule in ({}, {"match": "contains"}, {"match": "number"}, {"accept": ("Ann",)})
    ]
    assert len({_key(items=[question]).items for question in ruled}) == 4
    # The checksum that this question's score was stored under before a question had a rule.
    assert _key(items=FREE).items == "ff53625cc124fb0528d27f1fe9d2dead238b2d7cdd542243053a3e78af7f0bb8"


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "other"},
        {"arithmetic": "torch.bfloat16 on cuda"},
        {"task": replace(TASK, version=2)},
        {"task": replace(TASK, metric="accuracy_by_length")},
        {"items": ITEMS[:2]},
        {"items": ITEMS[::-1]},
        {"items": [*ITEMS[:2], replace(ITEMS[2], answer="Ann")]},
        {"items": FREE},
        {"items": [replace(FREE[0], match="contains")]},
        {"items": [replace(FREE[0], accept=("Ann",))]},
        {"items": [*ITEMS[:2], PlainText(text="Who is older?")]},
        {"tokenizer": tiny_tokenizer(chat=True)},
        {"scoring": 3},
    ],
)
def test_a_score_is_found_only_for_what_it_was_made_with(changed: dict, tmp_path: Path) -> None:
    cache, _ = _stored(tmp_path)
    assert cache.load(_key(**changed), "older", changed.get("items", ITEMS)) is None
    assert cache.notes == []


def _altered(text: str) -> str:
    stored = json.loads(text)
    stored["body"]["score"]["items"][0]["score"] = 0.5
    return json.dumps(stored)


@pytest.mark.parametrize(
    "damage",
    [lambda text: "", lambda text: text[:-20], lambda text: "[1, 2]", lambda text: "{}", _altered, lambda text: "null"],
    ids=["empty", "cut off", "a list", "no body", "another number", "null"],
)
def test_a_damaged_file_counts_as_missing_and_is_told_of(damage, tmp_path: Path) -> None:
    cache, path = _stored(tmp_path)
    path.write_text(damage(path.read_text()))
    assert cache.load(_key(), "older", ITEMS) is None
    assert len(cache.notes) == 1
    assert f"{path} is damaged" in cache.notes[0]
    cache.store(_key(), SCORE)
    assert cache.load(_key(), "older", ITEMS) == SCORE


def test_bytes_that_are_no_text_count_as_missing(tmp_path: Path) -> None:
    cache, path = _stored(tmp_path)
    path.write_bytes(b"\xff\xfe\x00")
    assert cache.load(_key(), "older", ITEMS) is None
    assert "cannot be read" in cache.notes[0]


def test_a_folder_that_cannot_be_written_to_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    cache = ScoreCache(folder=tmp_path / "cache")
    cache.store(_key(), SCORE)
    assert "could not be kept" in cache.notes[0]


def test_a_name_that_is_no_file_name_is_kept_too(tmp_path: Path) -> None:
    cache = ScoreCache(folder=tmp_path / "outer" / "cache")
    score: TaskScore = replace(SCORE, task="../../my task: ä/ö")
    cache.store(_key(), score)
    assert cache.load(_key(), "../../my task: ä/ö", ITEMS) == score
    (written,) = tmp_path.rglob("*.json")
    assert tmp_path / "outer" / "cache" in written.parents


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"SECURA_CACHE": "/own", "XDG_CACHE_HOME": "/xdg"}, "/own"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/secura"),
        ({"XDG_CACHE_HOME": "relative"}, "/home/ann/.cache/secura"),
        ({}, "/home/ann/.cache/secura"),
    ],
)
def test_the_environment_says_where_scores_are_kept(
    environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SECURA_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/ann")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)
