from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_model, tiny_tokenizer

from secura import ConfigError
from secura.anchors.openings import Openings
from secura.anchors.writing import Wanted, default_size, repeats_itself, shares, write_texts

BASE = {"model": "tiny", "fingerprint": "0"}
PROMPTS = [[30, 31, 32, 33, 34, 35], [40], [50, 51, 52]]


def wanted(**more: Any) -> Wanted:
    return Wanted(**{"texts": 20, "tokens": 9, "seed": 0, "prompts": PROMPTS, **more})


def written(folder: Path, *, chat: bool = False, model: Any = None, **more: Any) -> Any:
    model = model or tiny_model()
    return write_texts(model, tiny_tokenizer(chat=chat), wanted(**more), base=BASE, unfinished=folder / "unfinished")


def test_each_kind_has_its_share_and_a_fifth_is_held_out(tmp_path: Path) -> None:
    bank = written(tmp_path)
    assert {kind: sum(text.kind == kind for text in bank.texts) for kind in ("plain", "continuation")} == {
        "plain": 16,
        "continuation": 4,
    }
    assert sum(text.held_out for text in bank.texts) == 4
    assert shares(chat=True, prompts=True) == {"answer": 0.4, "conversation": 0.4, "plain": 0.2}
    assert shares(chat=True, prompts=False) == pytest.approx({"conversation": 2 / 3, "plain": 1 / 3})
    assert shares(chat=False, prompts=False) == {"plain": 1.0}
    assert shares(chat=True, prompts=False, conversations=False) == {"plain": 1.0}


def test_a_bank_without_conversations_is_another_bank() -> None:
    assert wanted(conversations=False).settings() != wanted().settings()
    assert "conversations" not in wanted().settings()  # banks of before are found again


def test_what_the_model_wrote_begins_where_its_prompt_ends(tmp_path: Path) -> None:
    for text in written(tmp_path).texts:
        if text.kind == "continuation":
            assert list(text.tokens[: text.written_from]) in PROMPTS
        else:
            assert text.written_from == 1
        assert 1 <= len(text.tokens) - text.written_from <= 9


def test_a_conversation_is_a_question_of_the_models_own_in_the_templates_place(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(chat=True)
    openings = Openings(tokenizer=tokenizer)
    model: Any = _likes(tiny_model(), tokenizer.convert_tokens_to_ids("<|end|>"))
    bank = written(tmp_path, chat=True, model=model)
    conversations = [text for text in bank.texts if text.kind == "conversation"]
    assert conversations
    opening, middle = openings.open_turn(0), openings.after_turn(0)
    assert tokenizer.decode(opening) == "<|user|>"
    assert tokenizer.decode(middle) == "<|end|>\n<|assistant|>"
    for text in conversations:
        tokens = list(text.tokens)
        assert tokens[: text.written_from] == opening
        said = "".join(map(chr, tokens))
        assert "".join(map(chr, middle)) in said  # the answer follows the closed turn
    ended = [text for text in conversations if text.tokens[-1] == tokenizer.convert_tokens_to_ids("<|end|>")]
    assert ended


def _likes(model: Any, token: int) -> Any:
    """The model with a head that gives one token a fair chance everywhere, so that turns end."""
    with torch.no_grad():
        head = model.get_output_embeddings()
        model.lm_head = torch.nn.Linear(head.in_features, head.out_features, bias=True)
        model.lm_head.weight.zero_()
        model.lm_head.bias.zero_()
        model.lm_head.bias[token] = 4.0
    return model


def test_an_interrupted_bank_goes_on_to_the_same_texts(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole", texts=40)
    calls: list[int] = []

    def stops(count: int) -> None:
        calls.append(count)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_texts(
            tiny_model(),
            tiny_tokenizer(),
            wanted(texts=40),
            base=BASE,
            unfinished=tmp_path / "unfinished",
            on_progress=stops,
        )
    assert list((tmp_path / "unfinished").glob("plain-*.json"))
    torch.manual_seed(99)  # another state of the drawing than the first had
    assert written(tmp_path, texts=40) == whole
    assert not (tmp_path / "unfinished").exists()
    assert written(tmp_path, texts=40, seed=1) != whole


def test_writing_leaves_no_trace_in_other_draws(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    written(tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_padding_has_no_say_in_what_is_said(tmp_path: Path) -> None:
    """Alone or beside longer prompts a prompt is followed by the same distribution; here, by its one likely token."""
    model: Any = tiny_model()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(1e4)
    texts = [text for text in written(tmp_path, model=model, texts=40).texts if text.kind == "continuation"]
    assert texts
    for text in texts:
        with torch.no_grad():
            logits = model(torch.tensor([list(text.tokens)])).logits[0]
        places = range(text.written_from - 1, len(text.tokens) - 1)
        assert [int(logits[place].argmax()) for place in places] == list(text.tokens[text.written_from :])


def test_a_base_that_writes_only_loops_is_refused(tmp_path: Path) -> None:
    model = _likes(tiny_model(), 77)
    with torch.no_grad():
        model.lm_head.bias[77] = 100.0
    with pytest.raises(ConfigError, match="of 40 texts that model tiny wrote, none can be used"):
        written(tmp_path, model=model, tokens=30)


def test_a_text_that_repeats_itself_is_a_loop() -> None:
    assert repeats_itself([1, 2, 3] * 10)
    assert not repeats_itself(list(range(30)))
    assert not repeats_itself([1] * 8)  # too short to tell
    assert not repeats_itself([*range(20), *range(5)])


def test_texts_of_the_users_own_join_the_bank(tmp_path: Path) -> None:
    bank = written(tmp_path, given=[([5, 6, 7, 8], 2), ([9], 0)])
    assert [list(text.tokens) for text in bank.texts if text.kind == "given"] == [[5, 6, 7, 8]]


def test_a_prompt_longer_than_the_context_keeps_its_end(tmp_path: Path) -> None:
    long = [list(range(3, 103))]
    texts = [text for text in written(tmp_path, prompts=long).texts if text.kind == "continuation"]
    assert texts
    for text in texts:
        assert len(text.tokens) <= 64
        assert text.tokens[text.written_from - 1] == 102


def test_the_default_size_grows_with_the_model() -> None:
    assert default_size(1_400_000) == (200, 64)
    assert default_size(135_000_000) == (200, 96)
    texts, tokens = default_size(8_000_000_000)
    assert texts * tokens == pytest.approx(1e6, rel=0.01)
