"""How a model is made to say something, and how what it has said outlives an interruption."""

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from secura.evaluation.causal_model import Model, context_length
from secura.evaluation.generation import plain_settings
from secura.json_text import read_json
from secura.tasks.prompting import pad_token_of
from secura.whole_files import write_json

ROWS_AT_ONCE = 32


def said(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    begins: Sequence[list[int]],
    *,
    tokens: int,
    ends: Sequence[int],
    sample: bool,
) -> list[tuple[list[int], bool]]:
    """What a model says after each beginning, its end included, and whether it came to one.

    Args:
        model: in evaluation mode.
        tokenizer: tells how long the context is, and what pads.
        begins: in tokens, one at least in each.
        tokens: the most that are said; fewer where the context leaves no more.
        ends: any of these ends it.
        sample: whether it draws at temperature 1 from all of its vocabulary, and takes the likeliest token otherwise.
    """
    context = context_length(model, tokenizer)
    width, pad = max(map(len, begins)), pad_token_of(tokenizer)
    room = tokens if context is None else min(tokens, context - width)
    filled, device = [(width - len(each), each) for each in begins], model.device
    how: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "top_k": 0} if sample else {"num_beams": 1}
    with plain_settings(model) as plain:
        output = plain.generate(
            input_ids=torch.tensor([[pad] * fill + each for fill, each in filled], device=device),
            attention_mask=torch.tensor([[0] * fill + [1] * len(each) for fill, each in filled], device=device),
            generation_config=GenerationConfig(
                max_new_tokens=max(1, room),
                do_sample=sample,
                eos_token_id=sorted(ends) or None,
                pad_token_id=pad,
                use_cache=True,
                **how,
            ),
        )
    return [_to_the_end(row, ends) for row in output[:, width:].tolist()]


def _to_the_end(row: list[int], ends: Sequence[int]) -> tuple[list[int], bool]:
    for place, token in enumerate(row):
        if token in ends:
            return row[: place + 1], True
    return row, False


@contextmanager
def seeded(device: torch.device, name: str) -> Iterator[None]:
    """Random draws that the name alone fixes, and that leave no trace in any other."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1)
        yield


def begin_or_go_on(unfinished: Path, settings: dict[str, Any]) -> None:
    """Go on with what these settings have written, or forget what others have."""
    path = unfinished / "settings.json"
    try:
        same = read_json(path) == settings
    except (OSError, ValueError):
        same = False
    if not same:
        shutil.rmtree(unfinished, ignore_errors=True)
        write_json(path, settings)
