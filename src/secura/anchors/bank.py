"""An anchor bank: texts of a base model, in tokens, and which part of each the model has written itself.

A bank is a folder:

    bank.json            which base wrote it, with which settings, and checksums of the other files
    texts.safetensors    the tokens of all texts one after another, and where each begins
    teacher.safetensors  the base's likeliest next tokens at every position that counts (`secura.anchors.teacher`)

Text of the base's own stands for what the base knows without any data of its training: pseudo-rehearsal.

Source:
    Robins 1995, Catastrophic forgetting, rehearsal and pseudorehearsal; Huang et al., self-synthesized rehearsal,
    arXiv:2403.01244; Xu et al., Magpie, arXiv:2406.08464, for texts begun with an open user turn.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from secura.checksums import file_checksum
from secura.errors import ConfigError
from secura.json_text import read_json
from secura.whole_files import write_folder, write_json

BANK_FILE, TEXTS_FILE = "bank.json", "texts.safetensors"

Kind = Literal["answer", "conversation", "plain", "continuation", "given", "task"]
"""An answer to a prompt of the user's, an invented question with its answer, a text from the beginning of one, a
user's prompt continued by a model without a chat template, a text of the user's own, and an invented prompt of a task
with the answer of the model that has learned it (`secura.anchors.task_texts`)."""
KINDS: tuple[Kind, ...] = get_args(Kind)

HELD_OUT_SHARE = 0.2
"""Of the texts: training is never held to them, so they tell how far it went elsewhere."""

_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class AnchorText:
    """One text."""

    tokens: Sequence[int]
    """What stands before it included, such as a prompt."""
    written_from: int
    """Index of the first token that counts; 1 at least, since nothing predicts the first token of all."""
    kind: Kind
    """How it came about."""
    held_out: bool = False
    """Whether training leaves it alone."""

    @property
    def counted(self) -> int:
        """How many of its positions count: one for each token from `written_from` on, which it predicts."""
        return len(self.tokens) - self.written_from


@dataclass(frozen=True, kw_only=True)
class AnchorBank:
    """The texts of one base."""

    texts: Sequence[AnchorText]
    """All of them, those held out included."""
    base: Mapping[str, str]
    """Which model wrote them: its name and the checksums of its weights."""
    settings: Mapping[str, Any]
    """How they were written: seed, limits, sampling, checksum of the prompts."""

    @property
    def tokens(self) -> int:
        """Tokens that count, of all texts."""
        return sum(text.counted for text in self.texts)

    @property
    def trained_on(self) -> list[int]:
        """Indices of the texts that are not held out."""
        return [index for index, text in enumerate(self.texts) if not text.held_out]


def with_some_held_out(texts: Sequence[AnchorText], seed: int) -> list[AnchorText]:
    """The same texts, of each kind a share held out, drawn by the seed; of a single text none."""
    held: set[int] = set()
    for kind in KINDS:
        members = [index for index, text in enumerate(texts) if text.kind == kind]
        random.Random(f"held out/{kind}/{seed}").shuffle(members)
        held.update(members[: round(HELD_OUT_SHARE * len(members))])
    return [
        AnchorText(tokens=text.tokens, written_from=text.written_from, kind=text.kind, held_out=index in held)
        for index, text in enumerate(texts)
    ]


def write_bank(folder: Path, bank: AnchorBank) -> None:
    """Write a bank whole or not at all, in place of what was there."""

    def fill(path: Path) -> None:
        tensors = {
            "tokens": torch.tensor([token for text in bank.texts for token in text.tokens], dtype=torch.int32),
            "lengths": torch.tensor([len(text.tokens) for text in bank.texts], dtype=torch.int32),
            "written_from": torch.tensor([text.written_from for text in bank.texts], dtype=torch.int32),
            "kinds": torch.tensor([KINDS.index(text.kind) for text in bank.texts], dtype=torch.int8),
            "held_out": torch.tensor([text.held_out for text in bank.texts], dtype=torch.int8),
        }
        save_file(tensors, path / TEXTS_FILE)
        about = {
            "format": _FORMAT,
            "base": dict(bank.base),
            "settings": dict(bank.settings),
            "texts": len(bank.texts),
            "tokens": bank.tokens,
            "kinds": {kind: count for kind in KINDS if (count := sum(text.kind == kind for text in bank.texts))},
            "checksum": file_checksum(path / TEXTS_FILE),
        }
        write_json(path / BANK_FILE, about)

    write_folder(folder, fill)


def holds_bank(folder: Path) -> bool:
    """Whether there is a bank, whole or damaged."""
    return (folder / BANK_FILE).is_file()


def read_bank(folder: Path) -> AnchorBank:
    """Read a bank.

    Raises:
        ConfigError: if there is none, or a file of it is missing, damaged or cut off.
    """
    if not holds_bank(folder):
        raise ConfigError(
            f"{folder} holds no anchor bank (no {BANK_FILE}); make one with: secura anchors MODEL --out {folder}"
        )
    try:
        about = read_json(folder / BANK_FILE)
        if about["format"] != _FORMAT:
            raise ValueError(f"it is of format {about['format']}, and this secura reads {_FORMAT}")
        if file_checksum(folder / TEXTS_FILE) != about["checksum"]:
            raise ValueError(f"the checksum of {TEXTS_FILE} does not match")
        tensors = load_file(folder / TEXTS_FILE)
        texts = [
            AnchorText(tokens=tokens.tolist(), written_from=begin, kind=KINDS[kind], held_out=bool(held))
            for tokens, begin, kind, held in zip(
                tensors["tokens"].split(tensors["lengths"].tolist()),
                *(tensors[name].tolist() for name in ("written_from", "kinds", "held_out")),
                strict=True,
            )
        ]
        return AnchorBank(texts=texts, base=about["base"], settings=about["settings"])
    except (OSError, ValueError, KeyError, TypeError, IndexError, RuntimeError, SafetensorError) as problem:
        reason = " ".join(str(problem).split())[:200]
        raise ConfigError(
            f"the anchor bank in {folder} is damaged or cut short ({reason}); delete the folder and make it again "
            "with: "
            f"secura anchors MODEL --out {folder}"
        ) from problem
