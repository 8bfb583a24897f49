"""A tokenizer in a GGUF file: its tokens, its merges, what splits a text before them, its special tokens and template.

llama.cpp knows the rules by which a text is split by name, and only the names it knows. A rule
is recognised by its regular expression; one that is not known is refused, since a file with the
wrong name answers, only worse.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gguf import GGUFWriter, TokenType
from transformers import PreTrainedTokenizerBase

from secura.errors import ConfigError
from secura.tasks.prompting import end_tokens

_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {
    rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|{_LETTERS}|\p{{N}}|{_REST}": "qwen2",
    rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|{_LETTERS}|\p{{N}}{{1,3}}|{_REST}": "llama-bpe",
}
"""Regular expressions of tokenizers, and what llama.cpp calls them."""


def add_tokenizer(
    writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, vocabulary: int, ends: Sequence[int] = ()
) -> None:
    """Write a tokenizer.

    Args:
        writer: the file, to which no tensor has been written yet.
        tokenizer: a fast tokenizer, byte-level or in the way of SentencePiece.
        vocabulary: rows of the model's embedding.
        ends: further tokens that end an answer, as generation settings name them.

    Raises:
        ConfigError: for a tokenizer that llama.cpp would read in another way.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ConfigError(f"{type(tokenizer).__name__} is a slow tokenizer, which cannot be written as GGUF.")
    stored = json.loads(backend.to_str())
    model = stored["model"]
    if model["type"] != "BPE":
        raise ConfigError(f"the tokenizer is of kind {model['type']}, but only BPE can be written as GGUF here.")
    added = {token["id"]: token for token in stored["added_tokens"]}
    if model.get("byte_fallback"):
        _add_sentencepiece(writer, stored, added, vocabulary)
    else:
        _add_byte_level(writer, stored, added, vocabulary)
    _add_special(writer, tokenizer, ends)


def _texts(model: Mapping[str, Any], added: Mapping[int, Any], vocabulary: int) -> list[str | None]:
    ids = {number: text for text, number in model["vocab"].items()}
    ids |= {number: token["content"] for number, token in added.items()}
    beyond = max(ids)
    if beyond >= vocabulary:
        raise ConfigError(
            f"the tokenizer has token {beyond}, but the model has embeddings for {vocabulary}; it is another model's."
        )
    return [ids.get(number) for number in range(vocabulary)]


def _pairs(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    return [(left, right) for left, right in pairs]


def _type(number: int, text: str | None, added: Mapping[int, Any]) -> TokenType:
    if text is None:
        return TokenType.UNUSED
    if number not in added:
        return TokenType.NORMAL
    return TokenType.CONTROL if added[number]["special"] else TokenType.USER_DEFINED


def _listed(texts: Sequence[str | None]) -> list[str]:
    return [f"[PAD{number}]" if text is None else text for number, text in enumerate(texts)]


# ---------------------------------------------------------------------- byte-level


def _add_byte_level(writer: GGUFWriter, stored: Mapping[str, Any], added: Mapping[int, Any], vocabulary: int) -> None:
    texts = _texts(stored["model"], added, vocabulary)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_splitting_rule(stored))
    writer.add_token_list(_listed(texts))
    writer.add_token_types([_type(number, text, added) for number, text in enumerate(texts)])
    writer.add_token_merges([" ".join(pair) for pair in _pairs(stored["model"])])


def _splitting_rule(stored: Mapping[str, Any]) -> str:
    """What llama.cpp calls the way a text is split."""
    outer: Any = stored["pre_tokenizer"] or {"type": "none"}
    steps = outer["pretokenizers"] if outer["type"] == "Sequence" else [outer]
    normalizer = (stored["normalizer"] or {}).get("type")
    last = steps[-1]
    if last["type"] == "ByteLevel" and not last.get("add_prefix_space") and normalizer in (None, "NFC"):
        before = steps[:-1]
        if not before and last.get("use_regex", True):
            return "gpt-2"
        digits = len(before) == 1 and before[0]["type"] == "Digits" and before[0].get("individual_digits")
        if digits and last.get("use_regex", True):
            return "smollm"
        if len(before) == 1 and before[0]["type"] == "Split" and not last.get("use_regex", True):
            name = _SPLITS.get(before[0]["pattern"].get("Regex", ""))
            if name is not None:
                return name
    shown = ", ".join(step["type"] for step in steps)
    raise ConfigError(
        f"the tokenizer splits texts by a rule ({shown}) that is not known here by llama.cpp's name for it; export "
        "--to merged, and convert that with llama.cpp's convert_hf_to_gguf.py."
    )


# ---------------------------------------------------------------------- SentencePiece


def _add_sentencepiece(
    writer: GGUFWriter, stored: Mapping[str, Any], added: Mapping[int, Any], vocabulary: int
) -> None:
    """Pieces with scores, of which llama.cpp joins the pair of the highest score first.

    A fast tokenizer has kept the order of merges alone, which is the order of the scores.
    """
    model = stored["model"]
    texts = _texts(model, added, vocabulary)
    rank: dict[str, int] = {}
    for place, (left, right) in enumerate(_pairs(model)):
        rank.setdefault(left + right, place)
    unknown = model.get("unk_token")

    def kind(number: int, text: str | None) -> TokenType:
        if text is not None and text == unknown:
            return TokenType.UNKNOWN
        if text is not None and len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            return TokenType.BYTE
        return _type(number, text, added)

    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(_listed(texts))
    writer.add_token_scores([-float(rank.get(text or "", len(rank))) for text in texts])
    writer.add_token_types([kind(number, text) for number, text in enumerate(texts)])
    writer.add_add_space_prefix(_puts_a_space_first(stored))


def _puts_a_space_first(stored: Mapping[str, Any]) -> bool:
    """Whether a text is read as if a space stood before it."""
    outer: Any = stored["normalizer"] or {"type": "none"}
    steps = outer["normalizers"] if outer["type"] == "Sequence" else [outer]
    kinds = [step["type"] for step in steps]
    splitter = stored["pre_tokenizer"] or {"type": "none"}
    if kinds == ["none"] and splitter["type"] == "Metaspace":
        return splitter.get("prepend_scheme", "always") != "never"
    harmless = splitter["type"] == "none" or (splitter["type"] == "Split" and splitter["pattern"] == {"String": " "})
    if kinds in (["Replace"], ["Prepend", "Replace"]) and harmless:
        return kinds[0] == "Prepend"
    raise ConfigError(
        f"the tokenizer prepares texts by {', '.join([*kinds, splitter['type']])}, which llama.cpp does not do; it "
        "would read other tokens."
    )


# ---------------------------------------------------------------------- special tokens


def _add_special(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]) -> None:
    special: list[tuple[Any, Any]] = [
        (tokenizer.bos_token_id, writer.add_bos_token_id),
        (tokenizer.eos_token_id, writer.add_eos_token_id),
        (tokenizer.unk_token_id, writer.add_unk_token_id),
        (tokenizer.pad_token_id, writer.add_pad_token_id),
    ]
    for number, add in special:
        if number is not None:
            add(int(number))
    closing = end_tokens(tokenizer)
    others = [*(closing if len(closing) == 1 else []), *ends]
    end_of_turn = next((token for token in others if token != tokenizer.eos_token_id), None)
    if end_of_turn is not None:
        writer.add_eot_token_id(int(end_of_turn))
    alone: Any = tokenizer("a")["input_ids"]
    bare: Any = tokenizer("a", add_special_tokens=False)["input_ids"]
    writer.add_add_bos_token(len(alone) > len(bare) and alone[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(len(alone) > len(bare) and alone[-1] == tokenizer.eos_token_id)
    if tokenizer.chat_template:
        template: Any = tokenizer.chat_template
        writer.add_chat_template(template)
