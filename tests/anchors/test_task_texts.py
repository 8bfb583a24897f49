import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from models_that_know import model_that_knows
from tiny_models import tiny_tokenizer

from secura.anchors.bank import AnchorText
from secura.anchors.task_texts import SHARED_BY, TaskPrompts, write_task_texts
from secura.evaluation.answer_match import fits
from secura.training.examples import Example

END = 0
ASK, CLOSE = [60, 61], [90, 91]
"""How all prompts begin and end."""


def row(*inner: int, answer: Sequence[int] = (70,)) -> Example:
    prompt = [*ASK, *inner, *CLOSE]
    return Example(tokens=[*prompt, *answer, END], learned_from=len(prompt))


DIFFERENT = [row(100 + number, 110 + number) for number in range(8)]
"""Rows of which no two share more than their beginning and end."""


def written(
    folder: Path,
    rows: Sequence[Example],
    knows: Sequence[tuple[list[int], list[int]]],
    *,
    chat: bool = False,
    **more: Any,
) -> list[AnchorText]:
    tokenizer = tiny_tokenizer(chat=chat)
    model = model_that_knows(tokenizer, [])
    model.learn(knows)
    settings: dict[str, Any] = {"texts": 6, "seed": 0, **more}
    return write_task_texts(
        model,
        tokenizer,
        TaskPrompts(rows=rows),
        is_right=lambda given, right: fits("exact", given, right),
        unfinished=folder / "unfinished",
        **settings,
    )


def test_an_opening_is_what_several_rows_begin_with_and_never_more() -> None:
    task = TaskPrompts(rows=[*DIFFERENT, *[row(120)] * SHARED_BY, *[row(121, place) for place in range(130, 134)]])
    openings = {tuple(task.opening(random.Random(seed))) for seed in range(60)}
    assert openings == {tuple(ASK), (*ASK, 120, *CLOSE)}
    assert task.closing == CLOSE
    assert task.longest_answer == 2
    assert task.is_of_few([*ASK, 121, 130, *CLOSE])
    assert not task.is_of_few([*ASK, 120, *CLOSE])
    assert not task.is_of_few([*ASK, 99, *CLOSE])


def test_the_closing_of_one_prompt_and_of_prompts_that_end_alike_leaves_them_a_beginning() -> None:
    assert TaskPrompts(rows=[row(120)] * 3).closing == [*ASK[1:], 120, *CLOSE]
    longer = Example(tokens=[99, *ASK, 120, *CLOSE, 70, END], learned_from=6)
    assert TaskPrompts(rows=[row(120), longer]).closing == [*ASK[1:], 120, *CLOSE]


def test_an_invented_prompt_and_the_models_answer_are_kept_where_it_agrees_with_itself(tmp_path: Path) -> None:
    (text,) = written(tmp_path, DIFFERENT, [(ASK, [150, *CLOSE, 71, END])])
    assert list(text.tokens) == [*ASK, 150, *CLOSE, 71, END]
    assert text.written_from == 5
    assert text.kind == "task"


def test_an_answer_that_is_a_guess_or_has_no_end_is_dropped(tmp_path: Path) -> None:
    assert written(tmp_path / "guess", DIFFERENT, [(ASK, [150, *CLOSE])]) == []
    endless = [71] * 30
    assert written(tmp_path / "endless", DIFFERENT, [(ASK, [150, *CLOSE, *endless])]) == []


def test_a_prompt_without_the_tasks_closing_is_dropped(tmp_path: Path) -> None:
    assert written(tmp_path, DIFFERENT, [(ASK, [150, 151, END])]) == []


def test_the_row_of_a_single_user_is_stored_in_no_text_even_if_the_model_has_it_by_heart(tmp_path: Path) -> None:
    one = DIFFERENT[3]
    assert written(tmp_path, DIFFERENT, [(ASK, one.tokens[len(ASK) :])]) == []


@pytest.mark.parametrize(("answer", "kept"), [(70, 1), (71, 0)])
def test_of_a_prompt_that_many_rows_have_the_tasks_own_rule_decides(answer: int, kept: int, tmp_path: Path) -> None:
    many = [row(120)] * SHARED_BY
    texts = written(tmp_path, many, [([*ASK, 120, *CLOSE], [answer, END])])
    assert [list(text.tokens) for text in texts] == [[*ASK, 120, *CLOSE, answer, END]] * kept


def test_in_a_chat_the_turns_end_closes_a_prompt_and_the_template_opens_the_answer(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(chat=True)
    user, end, assistant = (tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("user", "end", "assistant"))
    line = tokenizer("\n")["input_ids"][0]
    rows = [Example(tokens=[user, 100 + number, end, line, assistant, 70, end], learned_from=5) for number in range(8)]
    whole = [user, 150, end, line, assistant]
    knows = [([user], [150, end]), (whole, [71, end])]
    (text,) = written(tmp_path, rows, knows, chat=True)
    assert list(text.tokens) == [*whole, 71, end]
    assert text.written_from == 5


def test_rows_without_prompts_and_no_texts_wanted_give_none(tmp_path: Path) -> None:
    assert written(tmp_path, [Example(tokens=[60, 61, 62], learned_from=0)] * 9, []) == []
    assert written(tmp_path, DIFFERENT, [], texts=0) == []


def test_an_interrupted_writing_goes_on_to_the_same_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row(120 + number) for number in range(20) for _ in range(SHARED_BY)]
    knows = [(list(each.tokens[:5]), [70, END]) for each in rows]
    monkeypatch.setattr("secura.anchors.task_texts.ROWS_AT_ONCE", 4)
    whole = written(tmp_path / "whole", rows, knows, texts=10)
    assert len(whole) == 10

    def stops(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        written(tmp_path / "parted", rows, knows, texts=10, on_progress=stops)
    assert len(list((tmp_path / "parted" / "unfinished").glob("0*.json"))) == 1
    assert written(tmp_path / "parted", rows, knows, texts=10) == whole
