"""A base model writes its bank: seeded, in batches, and to the same texts after an interruption.

With a chat template 40 % of the texts are the model's own answers to the user's prompts, 40 % begin with an open user
turn, so that question and answer are both the model's, and 20 % begin where a text begins; a model without a template
has 80 % of these, and the rest continue the user's prompts. Without prompts the other kinds share their part.

Sampling is at temperature 1 from all of the vocabulary: only of what the base itself would say is the mean of
log p_base − log p_model its KL divergence. Dropped are duplicates and loops, and others are written in their place, up
to as many again as are wanted. A text that comes to no end within the limit is kept as far as it goes: it is what the
base says all the same, and to keep those alone that end would be to keep short ones.
"""

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from secura.anchors.bank import AnchorBank, AnchorText, Kind, with_some_held_out
from secura.anchors.openings import Openings
from secura.anchors.sampling import ROWS_AT_ONCE, begin_or_go_on, said, seeded
from secura.errors import ConfigError
from secura.evaluation.causal_model import Model, context_length, in_evaluation_mode
from secura.evaluation.generation import answer_ends
from secura.json_text import read_json
from secura.whole_files import write_json

_ATTEMPTS = 2
"""Texts written for each one that is wanted, at most."""
_GRAM = 4
_LEAST_DISTINCT = 0.5
"""A text in which fewer of the 4-grams are distinct repeats itself."""
_FEW_GRAMS = 12
"""In a text shorter than this nothing can be told."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which texts are to be written."""

    texts: int
    """How many."""
    tokens: int
    """The longest, in tokens that the model writes; a question and its answer together have twice as many."""
    seed: int
    """Fixes every token."""
    prompts: Sequence[Sequence[int]]
    """The user's, in tokens up to where an answer begins, such as those of the training rows."""
    given: Sequence[tuple[Sequence[int], int]] = ()
    """Texts of the user's own, in tokens, each with the index of its first token that counts; they join the bank."""
    conversations: bool = True
    """Whether a model with a chat template writes conversations too."""

    def settings(self) -> dict[str, Any]:
        """What tells one bank from another, as JSON."""
        asked = json.dumps([[list(each) for each in self.prompts], [[list(text), at] for text, at in self.given]])
        return {
            "texts": self.texts,
            "tokens": self.tokens,
            "seed": self.seed,
            "prompts": len(self.prompts),
            "given": len(self.given),
            "checksum_of_prompts": hashlib.sha256(asked.encode()).hexdigest(),
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": 0,
            **({} if self.conversations else {"conversations": False}),
        }


def default_size(weights: int) -> tuple[int, int]:
    """How many texts of how many tokens suit a model of so many weights."""
    if weights < 20_000_000:
        return 200, 64
    return (200, 96) if weights < 1_000_000_000 else (2600, 384)


def shares(*, chat: bool, prompts: bool, conversations: bool = True) -> dict[Kind, float]:
    """The share that each kind of text has in a bank."""
    if chat:
        wanted: dict[Kind, float] = {"answer": 0.4, "conversation": 0.4, "plain": 0.2}
    else:
        wanted = {"plain": 0.8, "continuation": 0.2}
    left_out: set[Kind] = set() if prompts else {"answer", "continuation"}
    if not conversations:
        left_out.add("conversation")
    total = sum(share for kind, share in wanted.items() if kind not in left_out)
    return {kind: share / total for kind, share in wanted.items() if kind not in left_out}


@torch.no_grad()
def write_texts(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    wanted: Wanted,
    *,
    base: Mapping[str, str],
    unfinished: Path,
    on_progress: Callable[[int], None] | None = None,
) -> AnchorBank:
    """Let the model write a bank.

    Args:
        model: the base, or a model whose adapter is off.
        tokenizer: tells what opens and ends a text.
        wanted: which texts.
        base: tells which model this is; kept in the bank.
        unfinished: a folder for what is written so far, gone on with by the same call; removed at the end.
        on_progress: called with the number of texts just kept.

    Raises:
        ConfigError: if nothing that the model writes can be used.
    """
    settings = {**wanted.settings(), "base": base.get("fingerprint", ""), "rows": ROWS_AT_ONCE}
    begin_or_go_on(unfinished, settings)
    openings = Openings(tokenizer=tokenizer)
    seen: set[tuple[int, ...]] = set()
    texts: list[AnchorText] = []
    parts = shares(chat=openings.has_chat, prompts=bool(wanted.prompts), conversations=wanted.conversations)
    with in_evaluation_mode(model):
        for kind, share in parts.items():
            count = wanted.texts - len(texts) if kind == list(parts)[-1] else round(share * wanted.texts)
            texts += _of_kind(kind, count, _Writer(model, tokenizer, openings, wanted, unfinished), seen, on_progress)
    if not texts:
        raise ConfigError(
            f"of {_ATTEMPTS * wanted.texts} texts that model {base.get('model', '')} wrote, none can be used: they "
            "repeat themselves or each other; give it prompts with --prompts, or choose the strategy kl_anchor."
        )
    known = [
        AnchorText(tokens=list(tokens), written_from=max(1, begin), kind="given")
        for tokens, begin in wanted.given
        if len(tokens) > max(1, begin)
    ]
    bank = AnchorBank(
        texts=with_some_held_out([*texts, *known], wanted.seed), base=dict(base), settings=wanted.settings()
    )
    shutil.rmtree(unfinished, ignore_errors=True)
    return bank


def _of_kind(
    kind: Kind,
    count: int,
    writer: "_Writer",
    seen: set[tuple[int, ...]],
    on_progress: Callable[[int], None] | None,
) -> list[AnchorText]:
    """`count` texts of a kind, or as many as can be used."""
    texts: list[AnchorText] = []
    batches = -(-_ATTEMPTS * count // ROWS_AT_ONCE)
    for number in range(batches):
        before = len(texts)
        for written in writer.batch(kind, number, min(ROWS_AT_ONCE, count)):
            key = tuple(written.tokens)
            if len(texts) == count or key in seen or repeats_itself(key[written.begin :]):
                continue
            seen.add(key)
            text = AnchorText(tokens=written.tokens, written_from=max(1, written.begin), kind=kind)
            if text.counted:
                texts.append(text)
        if on_progress and len(texts) > before:
            on_progress(len(texts) - before)
        if len(texts) == count:
            break
    return texts


def repeats_itself(tokens: Sequence[int]) -> bool:
    """Whether fewer than half of a text's 4-grams are distinct."""
    grams = [tuple(tokens[place : place + _GRAM]) for place in range(len(tokens) - _GRAM + 1)]
    return len(grams) >= _FEW_GRAMS and len(set(grams)) < _LEAST_DISTINCT * len(grams)


@dataclass(frozen=True, kw_only=True)
class _Written:
    tokens: list[int]
    begin: int
    """Where what the model wrote begins."""


@dataclass(frozen=True)
class _Writer:
    """Writes batch after batch, each by a seed of its own and kept as soon as it is there."""

    model: Model
    tokenizer: PreTrainedTokenizerBase
    openings: Openings
    wanted: Wanted
    unfinished: Path

    def batch(self, kind: Kind, number: int, rows: int) -> list[_Written]:
        """The texts of one batch, from disk where it was written before."""
        path = self.unfinished / f"{kind}-{number:04}.json"
        if path.is_file():
            return [_Written(**each) for each in read_json(path)]
        with seeded(self.model.device, f"{kind}/{number}/{self.wanted.seed}"):
            written = self._write(kind, range(number * ROWS_AT_ONCE, number * ROWS_AT_ONCE + rows))
        write_json(path, [vars(each) for each in written])
        return written

    def _write(self, kind: Kind, numbers: range) -> list[_Written]:
        if kind != "conversation":
            begins = [self._fitted(self._opening(kind, number)) for number in numbers]
            return [
                _Written(tokens=begin + rest, begin=len(begin))
                for begin, (rest, _) in zip(begins, self._said(begins), strict=True)
            ]
        openings = [self._fitted(self.openings.open_turn(number)) for number in numbers]
        asked = list(zip(numbers, openings, self._said(openings), strict=True))
        written = [
            _Written(tokens=opening + turn, begin=len(opening)) for _, opening, (turn, ended) in asked if not ended
        ]
        begins = [
            # The turn's end comes again with what follows it.
            (len(opening), self._fitted(opening + turn[:-1] + self.openings.after_turn(number)))
            for number, opening, (turn, ended) in asked
            if ended and len(turn) > 1
        ]
        if begins:
            answers = self._said([begin for _, begin in begins])
            written += [
                _Written(tokens=begin + answer, begin=min(first, len(begin)))
                for (first, begin), (answer, _) in zip(begins, answers, strict=True)
            ]
        return written

    def _opening(self, kind: Kind, number: int) -> list[int]:
        if kind == "plain":
            return self.openings.plain()
        prompts = self.wanted.prompts
        order = list(range(len(prompts)))
        random.Random(f"prompts/{number // len(prompts)}/{self.wanted.seed}").shuffle(order)
        return list(prompts[order[number % len(prompts)]])

    def _fitted(self, begin: list[int]) -> list[int]:
        """The end of a beginning that is too long: up to half of the context is left for what follows."""
        context = context_length(self.model, self.tokenizer)
        return begin if context is None else begin[-max(1, context - min(self.wanted.tokens, context // 2)) :]

    def _said(self, begins: Sequence[list[int]]) -> list[tuple[list[int], bool]]:
        ends = {*answer_ends(self.model, self.tokenizer), *self.openings.plain()}
        return said(self.model, self.tokenizer, begins, tokens=self.wanted.tokens, ends=sorted(ends), sample=True)
