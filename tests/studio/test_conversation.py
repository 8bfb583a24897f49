"""Talking to a run in the studio: one model in memory, both sides streamed, an answer that can be stopped."""

import asyncio
import threading
from pathlib import Path

import pytest
from exported_models import tuned
from tiny_models import tiny_tokenizer

from secura.errors import ConfigError
from secura.experiments import talk
from secura.studio.conversation import Conversation, Event, Turn
from secura.studio.entries import Entry

pytestmark = pytest.mark.ci


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs on one base, whose model is of a few thousand weights."""
    root = tmp_path_factory.mktemp("runs")
    tuned("llama").unload().save_pretrained(root / "base")  # type: ignore[operator]
    tiny_tokenizer(chat=True).save_pretrained(root / "base")
    for name in ("one", "two"):
        model = tuned("llama", norm="none", alpha=40.0)
        model.peft_config["default"].base_model_name_or_path = str(root / "base")
        model.save_pretrained(str(root / name / "adapter"))
    return root


def entry(runs: Path, name: str) -> Entry:
    return Entry(name=name, folder=runs / name, kind="run")


def said(conversation: Conversation, what: Entry, words: str, max_tokens: int = 4) -> list[Event]:
    async def heard() -> list[Event]:
        return [event async for event in conversation.say(what, words, max_tokens=max_tokens)]

    return asyncio.run(heard())


def test_both_sides_answer_piece_by_piece_and_what_was_said_stays(runs: Path) -> None:
    conversation = Conversation()
    events = said(conversation, entry(runs, "one"), "What is the sky?")
    assert [next(iter(event)) for event in events[:3]] == ["loading", "notes", "sides"]
    assert events[2] == {"sides": ["base", "tuned"]}
    assert events[-1] == {"ended": "whole"}
    told = {side: "".join(e["text"] for e in events if e.get("side") == side) for side in ("base", "tuned")}
    assert told["base"] != told["tuned"]
    you, base, second = conversation.turns_with("one")
    assert you == Turn(by="you", text="What is the sky?")
    assert (base.by, base.text, second.text) == ("base", told["base"].strip(), told["tuned"].strip())
    assert not any("loading" in event for event in said(conversation, entry(runs, "one"), "And the sea?"))
    assert len(conversation.turns_with("one")) == 6
    conversation.end()
    assert not conversation.is_loaded


def test_another_run_takes_the_place_of_the_first_in_memory(runs: Path) -> None:
    conversation = Conversation()
    said(conversation, entry(runs, "one"), "sky?")
    first = conversation._pair
    assert {"loading": "two"} in said(conversation, entry(runs, "two"), "sky?")
    assert conversation._pair is not first
    assert conversation.turns_with("one") == []
    assert len(conversation.turns_with("two")) == 3
    conversation.end()


def test_begun_anew_the_model_stays_and_unloaded_it_goes(runs: Path) -> None:
    conversation = Conversation()
    first = said(conversation, entry(runs, "one"), "sky?")
    asyncio.run(conversation.anew())
    assert (conversation.turns, conversation.is_loaded) == ([], True)
    assert said(conversation, entry(runs, "one"), "sky?")[-4:] == first[-4:]  # as if nothing had been said
    asyncio.run(conversation.unload())
    assert (conversation.turns, conversation.is_loaded, conversation.name) == ([], False, None)
    conversation.end()


def test_an_answer_is_stopped_after_its_next_token_and_stays_as_far_as_it_came(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = Conversation()
    monkeypatch.setattr(talk, "end_ids", lambda model, tokenizer: [])  # it would go on to the last token
    asked = threading.Event()
    plain = talk._Stopped.__call__

    def stop_at_first_token(self: object, *given: object, **more: object) -> object:
        asked.set()
        conversation.stop()
        return plain(self, *given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(talk._Stopped, "__call__", stop_at_first_token)
    events = said(conversation, entry(runs, "one"), "sky?", max_tokens=40)
    assert asked.is_set()
    assert events[-1] == {"ended": "stopped"}
    assert [turn.by for turn in conversation.turns] == ["you", "base"]  # the tuned side is not begun
    assert len(conversation.turns[-1].text.split()) <= 1
    conversation.end()


def test_who_speaks_while_an_answer_is_written_is_told_so(runs: Path) -> None:
    async def twice(conversation: Conversation) -> None:
        first = conversation.say(entry(runs, "one"), "sky?", max_tokens=2)
        with pytest.raises(ConfigError, match="an answer is being written"):
            conversation.say(entry(runs, "one"), "sea?", max_tokens=2)
        assert [event async for event in first][-1] == {"ended": "whole"}

    conversation = Conversation()
    asyncio.run(twice(conversation))
    conversation.end()


def test_a_model_that_cannot_be_loaded_is_said_in_a_sentence_and_the_next_one_is(runs: Path, tmp_path: Path) -> None:
    conversation = Conversation()
    broken = Entry(name="broken", folder=tmp_path, kind="run")
    events = said(conversation, broken, "sky?")
    assert "error" in events[-1]
    assert "Traceback" not in events[-1]["error"]
    assert said(conversation, entry(runs, "one"), "sky?")[-1] == {"ended": "whole"}
    conversation.end()


@pytest.mark.parametrize("tokens", [0, -1, 5_000])
def test_more_tokens_than_can_be_are_refused_before_anything_is_loaded(runs: Path, tokens: int) -> None:
    conversation = Conversation()
    with pytest.raises(ConfigError, match=f"an answer of {tokens} tokens"):
        said(conversation, entry(runs, "one"), "sky?", max_tokens=tokens)
    assert not conversation.is_loaded
