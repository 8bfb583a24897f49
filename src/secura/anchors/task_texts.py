"""A model that has just learned a task writes the texts by which later tasks will hold it to that one.

    opening   of a row drawn at random, the longest beginning of its prompt that several rows have
    prompt    the model goes on, up to the closing that all prompts of the task have, such as the end of a user's turn
    answer    the model's likeliest, token by token, up to its end

What stands in one row or a few is in no text unless the model has made it up: an opening is common to `SHARED_BY` rows,
and a text whose prompt is that of fewer is dropped. So no user data is stored, and what is stored is like the task's.

An answer is kept if the task's own scorer finds it right, where the prompt is one that rows have, and is dropped where
it is found wrong. Of other prompts nobody knows the right answer; there it is kept where the model agrees with itself:
two draws of a token would be the same one with probability 1/2 or more, as a mean over the answer.

Source:
    secura's own; a language model that learns prompts beside answers and writes samples of earlier tasks is LAMOL, Sun
    et al., arXiv:1909.03329; self-synthesized rehearsal, arXiv:2403.01244.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from secura.anchors.bank import AnchorText
from secura.anchors.sampling import ROWS_AT_ONCE, begin_or_go_on, said, seeded
from secura.anchors.teacher import anchor_rows
from secura.evaluation.causal_model import Model, context_length, in_evaluation_mode
from secura.evaluation.generation import answer_ends
from secura.evaluation.hidden_states import hidden_states
from secura.evaluation.merged import merged_for_scoring
from secura.json_text import read_json
from secura.numerics.divergence import agreement
from secura.training.examples import Example
from secura.whole_files import write_json

SHARED_BY = 5
"""Rows that must have a beginning before it is used."""

_ATTEMPTS = 3
"""Prompts begun for each text that is wanted, at most."""
_LEAST_AGREEMENT = 0.5
_SPARE_TOKENS = 8
"""How many tokens an answer may be longer than the longest of the rows."""
_MOST = 0.9
"""Share of the rows whose prompts an invented one may be as long as."""

IsRight = Callable[[str, Sequence[str]], bool]
"""The task's own rule: whether an answer is one of the right ones."""


@dataclass(frozen=True, kw_only=True)
class TaskPrompts:
    """What a task's rows have in common, and what each asks; held in memory while its texts are written."""

    rows: Sequence[Example]
    """What was trained on. Rows without a prompt, such as plain texts, are left aside."""

    @cached_property
    def prompts(self) -> list[tuple[int, ...]]:
        """The prompts of the rows, as often as they are there."""
        return [tuple(row.tokens[: row.learned_from]) for row in self.rows if row.learned_from]

    @cached_property
    def count(self) -> Counter[tuple[int, ...]]:
        """How many rows have a prompt."""
        return Counter(self.prompts)

    @cached_property
    def answers(self) -> dict[tuple[int, ...], list[list[int]]]:
        """The right answers to each prompt, in tokens."""
        known: dict[tuple[int, ...], list[list[int]]] = {}
        for row in self.rows:
            if row.learned_from:
                known.setdefault(tuple(row.tokens[: row.learned_from]), []).append(row.tokens[row.learned_from :])
        return known

    @cached_property
    def _beginnings(self) -> Counter[tuple[int, ...]]:
        return Counter(prompt[:length] for prompt in self.prompts for length in range(1, len(prompt) + 1))

    @cached_property
    def closing(self) -> list[int]:
        """The longest end that all prompts have; of a single prompt all but its first token."""
        # Of all ends in order, the first and the last have least in common.
        ends = sorted(prompt[::-1] for prompt in self.count)
        first, last = ends[0][:-1], ends[-1]
        length = next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
        return list(reversed(first[:length]))

    @cached_property
    def usual_length(self) -> int:
        """Tokens of a prompt that nine of ten are no longer than."""
        lengths = sorted(map(len, self.prompts))
        return lengths[int(_MOST * (len(lengths) - 1))]

    @cached_property
    def longest_answer(self) -> int:
        """Tokens of the longest right answer, its end included."""
        return max(len(answer) for answers in self.answers.values() for answer in answers)

    def opening(self, draw: random.Random) -> list[int]:
        """The longest beginning of a row's prompt that enough rows have; a whole prompt where enough have that."""
        prompt = self.prompts[draw.randrange(len(self.prompts))]
        lengths = (length for length in range(len(prompt), 0, -1) if self._beginnings[prompt[:length]] >= SHARED_BY)
        return list(prompt[: next(lengths, 0)])

    def is_of_few(self, prompt: Sequence[int]) -> bool:
        """Whether a prompt is one of rows, and of so few that it would tell of them."""
        return 0 < self.count[tuple(prompt)] < SHARED_BY


@torch.no_grad()
def write_task_texts(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    task: TaskPrompts,
    *,
    is_right: IsRight,
    texts: int,
    seed: int,
    unfinished: Path,
    on_progress: Callable[[int], None] | None = None,
) -> list[AnchorText]:
    """Let a model write texts of the task that it has just learned.

    Args:
        model: as it is after the task.
        tokenizer: tells what ends an answer, and what its tokens say.
        task: the rows that it was trained on.
        is_right: the task's own rule.
        texts: how many are wanted. There are fewer, or none, where the model writes too few that can be kept, or the
            rows have no prompts.
        seed: fixes every token.
        unfinished: a folder for what is written so far, gone on with by the same call; the caller removes it.
        on_progress: called with the number of texts just kept.
    """
    kept: list[AnchorText] = []
    if not task.prompts or not texts:
        return kept
    begin_or_go_on(unfinished, {"texts": texts, "seed": seed, "rows": len(task.rows), "at_once": ROWS_AT_ONCE})
    writer = _Writer(model, tokenizer, task, is_right, seed)
    seen: set[tuple[int, ...]] = set()
    with in_evaluation_mode(model), merged_for_scoring(model):
        for number in range(-(-_ATTEMPTS * texts // ROWS_AT_ONCE)):
            path = unfinished / f"{number:04}.json"
            if not path.is_file():
                with seeded(model.device, f"task/{number}/{seed}"):
                    write_json(path, writer.batch(number))
            before = len(kept)
            for tokens, begin in read_json(path):
                if len(kept) < texts and tuple(tokens[:begin]) not in seen:
                    seen.add(tuple(tokens[:begin]))
                    kept.append(AnchorText(tokens=tokens, written_from=begin, kind="task"))
            if on_progress and len(kept) > before:
                on_progress(len(kept) - before)
            if len(kept) == texts:
                break
    return kept


@dataclass(frozen=True)
class _Writer:
    model: Model
    tokenizer: PreTrainedTokenizerBase
    task: TaskPrompts
    is_right: IsRight
    seed: int

    def batch(self, number: int) -> list[tuple[list[int], int]]:
        """The texts of a batch that are kept, each with where its answer begins."""
        draw = random.Random(f"openings/{number}/{self.seed}")
        openings = [each for _ in range(ROWS_AT_ONCE) if (each := self.task.opening(draw))]
        prompts = self._prompts(openings)
        room = self.task.longest_answer + _SPARE_TOKENS
        context = context_length(self.model, self.tokenizer)
        prompts = [each for each in prompts if context is None or len(each) + room <= context]
        if not prompts:
            return []
        answers = said(self.model, self.tokenizer, prompts, tokens=room, ends=self._ends, sample=False)
        whole = [(prompt, answer) for prompt, (answer, ended) in zip(prompts, answers, strict=True) if ended]
        agreed = self._agreement(whole)
        return [
            (prompt + answer, len(prompt))
            for (prompt, answer), share in zip(whole, agreed, strict=True)
            if self._is_kept(prompt, answer, share)
        ]

    @property
    def _ends(self) -> list[int]:
        return answer_ends(self.model, self.tokenizer)

    def _prompts(self, openings: Sequence[list[int]]) -> list[list[int]]:
        """Openings as the model goes on with them, each up to the closing, and each once."""
        known = [each for each in openings if tuple(each) in self.task.count]
        begun = [each for each in openings if tuple(each) not in self.task.count]
        if begun and self.task.closing:
            room = self.task.usual_length - min(map(len, begun))
            rest = said(self.model, self.tokenizer, begun, tokens=max(1, room), ends=self._ends, sample=True)
            closed = (self._closed(each, more) for each, (more, _) in zip(begun, rest, strict=True))
            known += [each for each in closed if each]
        return [list(each) for each in dict.fromkeys(map(tuple, known)) if not self.task.is_of_few(each)]

    def _closed(self, opening: list[int], more: list[int]) -> list[int] | None:
        """A prompt up to its closing, of which a chat template's part after the end of the turn is not said."""
        closing = self.task.closing
        turn_end = next((place for place, token in enumerate(closing) if token in self._ends), len(closing) - 1)
        looked_for, tokens = closing[: turn_end + 1], opening + more
        for place in range(max(0, len(opening) - len(looked_for) + 1), len(tokens) - len(looked_for) + 1):
            if tokens[place : place + len(looked_for)] == looked_for:
                return tokens[:place] + closing
        return None

    def _agreement(self, whole: Sequence[tuple[list[int], list[int]]]) -> list[float]:
        """How far the model agrees with itself on each answer, as a mean over its tokens."""
        if not whole:
            return []
        texts = [AnchorText(tokens=prompt + answer, written_from=len(prompt), kind="task") for prompt, answer in whole]
        rows = anchor_rows(texts, self.model.device)
        found = hidden_states(self.model, rows.inputs).measured(agreement, rows.counted)
        return [part.mean().item() for part in found.split([text.counted for text in texts])]

    def _is_kept(self, prompt: list[int], answer: list[int], agreed: float) -> bool:
        known = self.task.answers.get(tuple(prompt))
        if known is None:
            return agreed >= _LEAST_AGREEMENT
        return self.is_right(self._text(answer), [self._text(each) for each in known])

    def _text(self, tokens: list[int]) -> str:
        text: Any = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return str(text).strip()
