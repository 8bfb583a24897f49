import json
from pathlib import Path

import pytest
from exported_models import tuned
from tiny_models import save_tiny_model, tiny_tokenizer

from secura.cli.app import DONE, USAGE, run


@pytest.fixture
def adapter(tmp_path: Path) -> list[str]:
    """An adapter with its base, as arguments."""
    tuned("llama").unload().save_pretrained(tmp_path / "base")  # type: ignore[operator]
    tiny_tokenizer(chat=True).save_pretrained(tmp_path / "base")
    tuned("llama", norm="none", alpha=40.0).save_pretrained(str(tmp_path / "adapter"))
    return [str(tmp_path / "adapter"), "--base", str(tmp_path / "base"), "--max-tokens", "4"]


def typed(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = iter(lines)

    def read(prompt: object = "") -> str:
        del prompt
        try:
            return next(waiting)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)


def answers(shown: str) -> list[str]:
    lines = [line.removeprefix("> ") for line in shown.replace("> ", "\n> ").splitlines()]
    return [line.partition(":")[0] for line in lines if line.startswith(("base: ", "tuned: "))]


def test_both_sides_answer_until_one_is_chosen(
    adapter: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(["What is the sky?", "/tuned", "sky?", "/base", "sky?", "/new", "/both", "sky?", "/help"], monkeypatch)
    assert run(["chat", *adapter]) == DONE
    shown = capsys.readouterr().out
    assert answers(shown) == ["base", "tuned", "tuned", "base", "base", "tuned"]
    assert shown.count("/new starts a new conversation") == 2


def test_a_conversation_that_is_too_long_says_so_and_goes_on(
    adapter: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(["/tuned", "sky " * 60, "sky?"], monkeypatch)
    assert run(["chat", *adapter]) == DONE
    shown = capsys.readouterr().out
    assert "the context 64; /new starts a new conversation" in shown
    assert answers(shown) == ["tuned", "tuned"]


def test_a_whole_model_has_no_base_to_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tiny_model(tmp_path / "model")
    typed(["/base", "sky?"], monkeypatch)
    assert run(["chat", str(tmp_path / "model"), "--max-tokens", "2"]) == DONE
    shown = capsys.readouterr().out
    assert "and its base is not known" in shown
    assert answers(shown) == ["tuned"]


def test_a_file_of_prompts_is_answered_by_both(adapter: list[str], tmp_path: Path) -> None:
    file, out = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    rows = [{"prompt": "sky?"}, {"messages": [{"role": "user", "content": "What is blue?"}]}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(["generate", adapter[0], str(file), *adapter[1:], "--both", "--out", str(out)]) == DONE
    answered = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["prompt"] for row in answered] == ["sky?", rows[1]["messages"]]
    assert all(row["base"] != row["tuned"] for row in answered)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [("p.txt", "\n", "holds no prompt"), ("p.jsonl", '{"text": 1}\n', "line 1 has neither prompt nor messages")],
)
def test_a_file_without_prompts_is_wrong_usage(
    name: str, content: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(content)
    assert run(["generate", "bundled", str(tmp_path / name)]) == USAGE
    assert says in capsys.readouterr().err
