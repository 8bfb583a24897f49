"""How the bundled model came about: `make tiny-model` pretrains it from nothing.

The text is drawn from the world as training goes, so no question file exists. Half of the
rows ask for knowledge, the rest practise what the new tasks will recombine, and a few are
plain statements. The loss of a question weighs its answer fully and its prompt a little:
the prompt is mostly names drawn at random, which nothing can predict.
"""

import argparse
import json
import math
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from secura.tasks.world.knowledge import KNOWLEDGE
from secura.tasks.world.practice import PRACTICE
from secura.tasks.world.statements import statement
from secura.tasks.world.tokenizer import END_ID, LONGEST_ROW_TOKENS, PADDING_ID, train_tokenizer

# A step's rows run in parts sorted by length, which halves the padding and the time.
_ROWS_OF_ALIKE_LENGTH = 32


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the weights, beside the library versions and the machine."""

    seed: int = 0
    """Seed of the first weights and of the text."""
    steps: int = 4000
    """Optimizer steps."""
    rows: int = 128
    """Questions and statements in a step."""
    peak_rate: float = 3e-3
    """Learning rate after the warm-up; it falls to a hundredth of that on a cosine."""
    warmup_steps: int = 200
    """Steps over which the learning rate rises from zero."""
    weight_decay: float = 0.05
    """AdamW's weight decay, on matrices only."""
    prompt_weight: float = 0.1
    """What a prompt token counts in the loss, where an answer token counts 1."""
    knowledge_share: float = 0.5
    """Share of rows that ask for knowledge."""
    statement_share: float = 0.06
    """Share of rows that are statements; the rest is practice."""

    def __post_init__(self) -> None:
        """Refuse a recipe that trains nothing."""
        if self.steps < 1 or self.rows < 1:
            raise ValueError(f"steps is {self.steps} and rows is {self.rows}; both must be 1 or more.")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows of about the same length, padded on the right to the longest."""

    tokens: Tensor
    weights: Tensor
    """What each token counts in the loss; over all batches of a step these sum to 1."""


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A Llama of 1.5 M parameters with weights drawn from `seed`."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=160,
        intermediate_size=448,
        num_hidden_layers=4,
        num_attention_heads=5,
        num_key_value_heads=5,
        max_position_embeddings=LONGEST_ROW_TOKENS,
        tie_word_embeddings=True,
        initializer_range=0.04,
        bos_token_id=None,
        eos_token_id=END_ID,
        pad_token_id=PADDING_ID,
    )
    with torch.random.fork_rng(devices=[]):
        # transformers draws first weights from the global generator and takes no other.
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def pretraining_rows(recipe: Recipe) -> Iterator[list[tuple[str, str]]]:
    """The text of pretraining, one step's rows after the other, without end.

    A row is a prompt and the answer that follows it, its leading space included; a
    statement is an answer without a prompt.
    """
    draw = random.Random(f"text/{recipe.seed}")
    knowledge, practice = tuple(KNOWLEDGE.values()), tuple(PRACTICE.values())
    while True:
        rows = []
        for _ in range(recipe.rows):
            share = draw.random()
            if share < recipe.statement_share:
                rows.append(("", statement(draw)))
                continue
            families = knowledge if share < recipe.statement_share + recipe.knowledge_share else practice
            question = draw.choice(families)(draw)
            rows.append((question.prompt, f" {question.answer}"))
        yield rows


def steps_of_text(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Iterator[list[Batch]]:
    """The same text as tokens and weights, one step's batches after the other."""
    for rows in pretraining_rows(recipe):
        yield _batches(rows, tokenizer, recipe.prompt_weight)


def _batches(rows: list[tuple[str, str]], tokenizer: PreTrainedTokenizerFast, prompt_weight: float) -> list[Batch]:
    # ByteLevel splits before each space, so prompt and answer tokenize apart as they do together.
    prompts = [list(row) for row in tokenizer([prompt for prompt, _ in rows])["input_ids"]]
    answers = [[*row, END_ID] for row in tokenizer([answer for _, answer in rows])["input_ids"]]
    weighted = [
        (prompt + answer, [prompt_weight] * len(prompt) + [1.0] * len(answer))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    weighted.sort(key=lambda row: len(row[0]))
    # A row's first token is never predicted, so its weight must not count either.
    whole_weight = sum(sum(weights[1:]) for _, weights in weighted)
    batches = []
    for start in range(0, len(weighted), _ROWS_OF_ALIKE_LENGTH):
        part = weighted[start : start + _ROWS_OF_ALIKE_LENGTH]
        shape = len(part), len(part[-1][0])
        tokens, weights = torch.full(shape, PADDING_ID), torch.zeros(shape)
        for index, (row_tokens, row_weights) in enumerate(part):
            tokens[index, : len(row_tokens)] = torch.tensor(row_tokens)
            weights[index, : len(row_weights)] = torch.tensor(row_weights)
        batches.append(Batch(tokens=tokens, weights=weights / whole_weight))
    return batches


def weighted_loss(model: LlamaForCausalLM, batch: Batch) -> Tensor:
    """Sum of −log p(token), each token times its weight: this batch's part of a step's loss."""
    # No attention mask: padding stands on the right, where a causal model never looks back from.
    logits = model(input_ids=batch.tokens[:, :-1], use_cache=False).logits
    losses = cross_entropy(logits.flatten(0, 1), batch.tokens[:, 1:].flatten(), reduction="none")
    return losses @ batch.weights[:, 1:].flatten()


def rate_at(step: int, recipe: Recipe) -> float:
    """Learning rate of a step: linear warm-up, then a cosine down to a hundredth of the peak."""
    if step < recipe.warmup_steps:
        return recipe.peak_rate * (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return recipe.peak_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)


def pretrain(
    recipe: Recipe, *, show_progress: bool = True
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast, list[float]]:
    """Follow the recipe; returns the model, its tokenizer and the loss of every step."""
    tokenizer = train_tokenizer(recipe.seed)
    model = new_model(tokenizer, recipe.seed)
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    vectors = [weight for weight in model.parameters() if weight.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
        fused=True,
    )
    model.train()
    losses: list[float] = []
    text = steps_of_text(recipe, tokenizer)
    columns = (
        *Progress.get_default_columns(),
        TimeElapsedColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
    )
    with Progress(*columns, disable=not show_progress) as progress:
        bar = progress.add_task("pretraining", total=recipe.steps, loss=math.nan)
        for step in range(recipe.steps):
            for group in optimizer.param_groups:
                group["lr"] = rate_at(step, recipe)
            optimizer.zero_grad()
            loss = 0.0
            for batch in next(text):
                part = weighted_loss(model, batch)
                part.backward()
                loss += part.item()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss)
            progress.update(bar, advance=1, loss=losses[-1])
    return model.eval(), tokenizer, losses


def save(
    folder: Path,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    record: dict[str, object],
) -> None:
    """Put model, tokenizer and record into `folder`, replacing what was there in one move."""
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as staging:
        complete = Path(staging) / "new"
        model.save_pretrained(complete)
        tokenizer.save_pretrained(complete)
        for file in complete.iterdir():
            # safetensors lets only its owner read a file, which would follow it into the package.
            file.chmod(0o644)
        (complete / "pretraining.json").write_text(json.dumps(record, indent=2) + "\n")
        if folder.exists():
            folder.rename(Path(staging) / "old")
        complete.rename(folder)
        shutil.rmtree(Path(staging) / "old", ignore_errors=True)


def main() -> None:
    """Pretrain the bundled model and write it to a folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write, replaced if it exists")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="optimizer steps")
    parser.add_argument("--seed", type=int, default=Recipe.seed, help="seed of weights and text")
    arguments = parser.parse_args()
    recipe = Recipe(steps=arguments.steps, seed=arguments.seed)
    started = time.perf_counter()
    model, tokenizer, losses = pretrain(recipe)
    last = losses[-100:]
    save(
        arguments.out,
        model,
        tokenizer,
        {
            "recipe": asdict(recipe),
            "torch": torch.__version__.split("+")[0],
            "transformers": transformers.__version__,
            "threads": torch.get_num_threads(),
            "minutes": round((time.perf_counter() - started) / 60, 1),
            "loss_of_the_last_100_steps": round(sum(last) / len(last), 4),
        },
    )


if __name__ == "__main__":
    main()
