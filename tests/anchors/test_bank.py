import json
from pathlib import Path

import pytest
import torch
from continual.own_text_bank import tiny_bank
from tiny_models import tiny_model

from secura import ConfigError
from secura.anchors.bank import AnchorText, read_bank, with_some_held_out
from secura.anchors.teacher import Teacher, anchor_rows
from secura.numerics.divergence import likeliest


def test_a_bank_is_read_as_it_was_written(tmp_path: Path) -> None:
    bank = tiny_bank(tmp_path / "bank")
    assert read_bank(tmp_path / "bank") == bank


def test_the_teacher_is_what_the_base_thinks_of_each_text(tmp_path: Path) -> None:
    bank = tiny_bank(tmp_path / "bank")
    teacher = Teacher(tmp_path / "bank", bank)
    chosen = [7, 0, 3]
    rows = anchor_rows([bank.texts[index] for index in chosen])
    with torch.no_grad():
        logits = tiny_model()(**rows.inputs).logits[rows.counted]
    tokens, kept, rest = likeliest(logits, 64)
    cached = teacher.of(chosen)
    assert cached[0].dtype == torch.int32
    assert cached[1].dtype == torch.float16
    torch.testing.assert_close(cached[1].float(), kept, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(cached[2], rest, rtol=1e-4, atol=1e-4)
    assert (cached[0] == tokens).float().mean() > 0.99  # ties of 32 bits may fall either way


def test_positions_that_count_predict_what_was_written() -> None:
    rows = anchor_rows(
        [
            AnchorText(tokens=[4, 5, 6, 7], written_from=2, kind="plain"),
            AnchorText(tokens=[8, 9], written_from=1, kind="plain"),
        ]
    )
    assert rows.counted.tolist() == [[False, True, True, False], [True, False, False, False]]
    assert rows.inputs["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]


def test_each_kind_has_texts_held_out() -> None:
    texts = [
        AnchorText(tokens=[1, number], written_from=1, kind=kind)
        for number in range(10)
        for kind in ("plain", "answer")
    ]
    held = with_some_held_out(texts, seed=3)
    for kind in ("plain", "answer"):
        assert sum(text.held_out for text in held if text.kind == kind) == 2
    assert held == with_some_held_out(texts, seed=3)
    assert held != with_some_held_out(texts, seed=4)


@pytest.mark.parametrize("file", ["texts.safetensors", "bank.json"])
def test_a_damaged_bank_is_told_of_in_one_line(file: str, tmp_path: Path) -> None:
    tiny_bank(tmp_path / "bank")
    path = tmp_path / "bank" / file
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ConfigError, match="is damaged or cut short") as problem:
        read_bank(tmp_path / "bank")
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize("damage", ["cut off", "changed", "missing", "of another bank"])
def test_a_damaged_teacher_is_told_of_with_the_way_out(damage: str, tmp_path: Path) -> None:
    bank = tiny_bank(tmp_path / "bank")
    path = tmp_path / "bank" / "teacher.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "cut off":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "changed":
        content[-5] ^= 1
        path.write_bytes(content)
    elif damage == "missing":
        path.unlink()
    else:
        bank = tiny_bank(tmp_path / "other", texts=6)
    with pytest.raises(ConfigError, match=r"teacher cache .* write it again with: secura anchors MODEL --out"):
        Teacher(tmp_path / "bank", bank)


def test_a_folder_without_a_bank_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no anchor bank.*secura anchors MODEL"):
        read_bank(tmp_path)


def test_a_bank_of_a_later_format_is_not_guessed_at(tmp_path: Path) -> None:
    tiny_bank(tmp_path / "bank")
    path = tmp_path / "bank" / "bank.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    with pytest.raises(ConfigError, match="it is of format 2, and this secura reads 1"):
        read_bank(tmp_path / "bank")
