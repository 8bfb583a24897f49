import json
from pathlib import Path

import pytest
from tiny_models import save_tiny_model

from secura.cli.app import run

CHAT = {
    "conversations": [
        {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "Yes?"},
        {"from": "human", "value": "Sky?"},
        {"from": "gpt", "value": "blue"},
    ],
    "id": "a",
}


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps(CHAT) + "\n" + json.dumps({**CHAT, "id": "b"}) + "\n")
    return path


def test_rows_are_shown_with_lengths_and_with_what_is_learned_in_brackets(
    chats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_tiny_model(tmp_path / "model", chat=True)
    assert run(["data", "show", str(chats), "--model", str(model), "--rows", "1"]) == 0
    shown = capsys.readouterr().out
    assert "2 rows; " in shown
    assert "0 are longer than the 64 tokens that a row may have" in shown
    assert "<|user|>Hi<|end|>⏎<|assistant|>⟦Yes?<|end|>⟧⏎<|user|>Sky?<|end|>⏎<|assistant|>⟦blue<|end|>⟧" in shown
    assert "row 2" not in shown
    assert "note: not used of chats.jsonl: id" in shown
    assert run(["data", "show", str(chats), "--model", str(model), "--set", "data.turns=last"]) == 0
    assert "<|assistant|>Yes?<|end|>⏎" in capsys.readouterr().out


def test_a_row_that_cannot_be_read_is_refused_with_its_line(chats: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with chats.open("a") as file:
        file.write('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    assert run(["data", "show", str(chats)]) == 3
    assert "chats.jsonl, line 3: holds a preference pair" in capsys.readouterr().err
