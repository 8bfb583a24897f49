"""Talking to a model: what was made of a base, and the base itself, on the same prompt.

The tuned side answers with its adapter merged, as it would be exported.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from peft import PeftModel
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    TextStreamer,
)

from secura.errors import ConfigError, DataError
from secura.evaluation.causal_model import Model, called_model, context_length, in_evaluation_mode
from secura.evaluation.generation import generate_answers
from secura.evaluation.merged import merged_for_scoring
from secura.evaluation.parity import end_ids
from secura.experiments.export import open_source, tokenizer_of
from secura.json_text import parsed_json
from secura.tasks.prompting import prompt_tokens
from secura.training.library_output import silence_libraries

Side = Literal["base", "tuned"]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A model that can be talked to, and its base where it is an adapter on one."""

    model: Model
    """The model, an adapter not merged."""
    tokenizer: PreTrainedTokenizerBase
    """What it reads with; the adapter's own where it has one."""
    notes: Sequence[str]
    """What the user should know."""

    @property
    def sides(self) -> tuple[Side, ...]:
        """Who can answer."""
        return ("base", "tuned") if isinstance(self.model, PeftModel) else ("tuned",)

    def side(self, side: Side) -> AbstractContextManager[Any]:
        """The model as one side, for as long as it answers."""
        if side == "tuned":
            return merged_for_scoring(self.model)
        return cast(PeftModel, self.model).disable_adapter()


@contextmanager
def opened_pair(source: str, base: str | None) -> Iterator[Pair]:
    """Load what is talked to.

    Args:
        source: a run, an adapter or a model.
        base: the base of an adapter; None is the one it names.

    Raises:
        InputError: if it cannot be loaded, or does not fit its base.
    """
    silence_libraries()
    pair = open_source(source, base)
    pair.check()
    with pair.unmerged() as ready:
        yield Pair(model=ready.model, tokenizer=tokenizer_of(pair, ready.tokenizer), notes=pair.notes)


class Talk:
    """One conversation, in which each side sees the user's turns and its own answers."""

    def __init__(self, pair: Pair, *, max_tokens: int) -> None:
        if max_tokens < 1:
            raise ConfigError(f"--max-tokens is {max_tokens}; give a number, at least 1.")
        self._pair = pair
        self.max_tokens = max_tokens
        """Of an answer, at most."""
        self._turns: dict[Side, list[dict[str, str]]] = {side: [] for side in pair.sides}

    def forget(self) -> None:
        """Begin anew."""
        for turns in self._turns.values():
            turns.clear()

    @torch.inference_mode()
    def say(
        self,
        side: Side,
        words: str,
        on_text: Callable[[str], None],
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> str:
        """Have one side answer, greedily.

        Args:
            side: who answers.
            words: the user's.
            on_text: called with each piece of the answer as it comes.
            is_stopped: asked after each token; the answer ends where it says so.

        Returns:
            The answer, which the conversation goes on from.

        Raises:
            ConfigError: if the conversation no longer fits the model's context.
        """
        tokenizer, model = self._pair.tokenizer, self._pair.model
        turns = [*self._turns[side], {"role": "user", "content": words}]
        # A model without a chat template only continues a text.
        prompt = prompt_tokens(tokenizer, turns if tokenizer.chat_template else words)
        context = context_length(model, tokenizer)
        length = len(prompt)
        if context is not None and length >= context:
            raise ConfigError(
                f"the conversation is {length} tokens long, the context {context}; /new starts a new conversation."
            )
        room = self.max_tokens if context is None else min(self.max_tokens, context - len(prompt))
        pieces: list[str] = []

        def hear(text: str) -> None:
            pieces.append(text)
            on_text(text)

        ends = end_ids(model, tokenizer)
        settings = GenerationConfig(
            max_new_tokens=room, do_sample=False, eos_token_id=ends or None, pad_token_id=(ends or [0])[0]
        )
        with self._pair.side(side), in_evaluation_mode(model):
            ids = torch.tensor([prompt], device=model.device)
            called: Any = called_model(model)
            called.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                generation_config=settings,
                streamer=_Streamer(tokenizer, hear),
                stopping_criteria=StoppingCriteriaList([_Stopped(is_stopped)]),
            )
        answer = "".join(pieces).strip()
        self._turns[side] = [*turns, {"role": "assistant", "content": answer}]
        return answer


class _Stopped(StoppingCriteria):
    """Ends an answer where the user does."""

    def __init__(self, is_stopped: Callable[[], bool]) -> None:
        self._is_stopped = is_stopped

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
        """Called by transformers after each token."""
        del scores, kwargs
        return torch.full((input_ids.shape[0],), self._is_stopped(), device=input_ids.device)


class _Streamer(TextStreamer):
    """Hands each finished piece of text on."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, hear: Callable[[str], None]) -> None:
        super().__init__(cast(Any, tokenizer), skip_prompt=True, skip_special_tokens=True)
        self._hear = hear

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Called by transformers."""
        del stream_end
        self._hear(text)


def read_prompts(file: Path) -> list[str | list[dict[str, str]]]:
    """Prompts of a file: a line each, or rows of JSONL with `prompt` or `messages`.

    Raises:
        DataError: if there are none, or a row has neither.
    """
    try:
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as problem:
        raise DataError(f"{file} cannot be read: {problem}") from problem
    if not lines:
        raise DataError(f"{file} holds no prompt; write one a line.")
    if file.suffix != ".jsonl":
        return list(lines)
    prompts: list[str | list[dict[str, str]]] = []
    for number, line in enumerate(lines, 1):
        try:
            row = parsed_json(line)
        except ValueError as problem:
            raise DataError(f"{file} line {number} is not JSON: {problem}.") from problem
        found = row.get("messages") or row.get("prompt") if isinstance(row, dict) else None
        if not found:
            raise DataError(f"{file} line {number} has neither prompt nor messages.")
        prompts.append(found)
    return prompts


def answer_all(
    pair: Pair, prompts: Sequence[str | list[dict[str, str]]], *, max_tokens: int, sides: Sequence[Side]
) -> list[dict[str, Any]]:
    """Have each side answer every prompt, greedily.

    Returns:
        A row for each prompt, with the answer of each side by its name.
    """
    tokens = [prompt_tokens(pair.tokenizer, prompt) for prompt in prompts]
    rows: list[dict[str, Any]] = [{"prompt": prompt} for prompt in prompts]
    for side in sides:
        with pair.side(side), in_evaluation_mode(pair.model):
            answers = generate_answers(pair.model, pair.tokenizer, tokens, max_tokens=max_tokens)
        for row, answer in zip(rows, answers, strict=True):
            row[side] = answer.text.strip()
    return rows
