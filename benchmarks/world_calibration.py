"""How well the bundled world tells methods apart: the numbers in docs/log.md.

Measures the base model on every family of knowledge, learns every new task alone, and
learns five in sequence with one adapter, with PEFT's LoRA r=8 on q and v. The scorer is a
plain batched one of its own, so that the package's evaluation is not judged by itself.
"""

import argparse
import random
import time
from collections import defaultdict
from dataclasses import dataclass

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast

from secura.tasks.question import Question
from secura.tasks.world import NEW_TASKS, knowledge_questions, load_bundled_model, load_bundled_tokenizer
from secura.tasks.world.tokenizer import END_ID, PADDING_ID

IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class Conditions:
    steps: int = 150
    rows: int = 32
    rate: float = 2e-3
    rank: int = 8
    alpha: int = 16
    seed: int = 0


def rows_of(tokenizer: PreTrainedTokenizerFast, pairs: list[tuple[str, str]]) -> tuple[torch.Tensor, torch.Tensor]:
    prompts = tokenizer([prompt for prompt, _ in pairs])["input_ids"]
    answers = [[*row, END_ID] for row in tokenizer([f" {answer}" for _, answer in pairs])["input_ids"]]
    longest = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
    tokens = torch.full((len(pairs), longest), PADDING_ID)
    labels = torch.full((len(pairs), longest), IGNORED)
    for index, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        end = len(prompt) + len(answer)
        tokens[index, :end] = torch.tensor([*prompt, *answer])
        labels[index, len(prompt) : end] = torch.tensor(answer)
    return tokens, labels


def token_losses(model: nn.Module, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    losses = cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="none", ignore_index=IGNORED)
    return losses.view(len(tokens), -1)


@torch.no_grad()
def is_right(model: nn.Module, tokenizer: PreTrainedTokenizerFast, questions: list[Question]) -> list[bool]:
    """A free answer is right when greedy decoding would give it whole, end included."""
    model.eval()
    pairs, owners = [], []
    for index, question in enumerate(questions):
        for answer in question.choices or (question.answer,):
            pairs.append((question.prompt, answer))
            owners.append((index, answer))
    order = sorted(range(len(pairs)), key=lambda at: len(pairs[at][0]))
    scores: list[float] = [0.0] * len(pairs)
    greedy: list[bool] = [False] * len(pairs)
    for start in range(0, len(order), 128):
        part = order[start : start + 128]
        tokens, labels = rows_of(tokenizer, [pairs[at] for at in part])
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
        wanted = labels[:, 1:]
        picked = logits.log_softmax(-1).gather(-1, wanted.clamp(min=0)[..., None])[..., 0]
        counted = wanted != IGNORED
        # A choice is scored without its end, as the package scores it.
        ends = wanted == END_ID
        summed = (picked * (counted & ~ends)).sum(1).tolist()
        all_greedy = ((logits.argmax(-1) == wanted) | ~counted).all(1).tolist()
        for at, score, hit in zip(part, summed, all_greedy, strict=True):
            scores[at], greedy[at] = score, hit
    best: dict[int, tuple[float, str]] = {}
    right = [False] * len(questions)
    for at, (index, answer) in enumerate(owners):
        if not questions[index].choices:
            right[index] = greedy[at]
        elif index not in best or scores[at] > best[index][0]:
            best[index] = scores[at], answer
    for index, (_, answer) in best.items():
        right[index] = answer == questions[index].answer
    return right


def accuracy_by_family(
    model: nn.Module, tokenizer: PreTrainedTokenizerFast, questions: list[Question]
) -> dict[str, float]:
    found: dict[str, list[bool]] = defaultdict(list)
    for question, right in zip(questions, is_right(model, tokenizer, questions), strict=True):
        found[question.family].append(right)
    return {family: sum(rights) / len(rights) for family, rights in found.items()}


def mean(accuracies: dict[str, float]) -> float:
    return sum(accuracies.values()) / len(accuracies)


def with_lora(conditions: Conditions) -> PeftModel:
    torch.manual_seed(conditions.seed)
    config = LoraConfig(
        r=conditions.rank,
        lora_alpha=conditions.alpha,
        target_modules=["q_proj", "v_proj"],
        task_type="CAUSAL_LM",
    )
    return get_peft_model(load_bundled_model(), config)  # pyright: ignore[reportReturnType]


def learn(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    tokenizer: PreTrainedTokenizerFast,
    questions: list[Question],
    conditions: Conditions,
) -> float:
    """Train for the given steps at a constant rate; returns seconds a step."""
    draw = random.Random(conditions.seed)
    model.train()
    started = time.perf_counter()
    for _ in range(conditions.steps):
        chosen = draw.sample(questions, conditions.rows)
        tokens, labels = rows_of(tokenizer, [(question.prompt, question.answer) for question in chosen])
        loss = token_losses(model, tokens, labels).sum() / (labels[:, 1:] != IGNORED).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (time.perf_counter() - started) / conditions.steps


def adam(model: nn.Module, rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        (weight for weight in model.parameters() if weight.requires_grad), lr=rate, weight_decay=0.0
    )


def row(*cells: object) -> None:
    print(
        "| " + " | ".join(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells) + " |",
        flush=True,
    )


def calibrate_knowledge(tokenizer: PreTrainedTokenizerFast, knowledge: list[Question]) -> None:
    base = accuracy_by_family(load_bundled_model(), tokenizer, knowledge)
    row("family", "accuracy")
    for family, accuracy in base.items():
        row(family, accuracy)
    row("mean", mean(base))


def calibrate_tasks(
    names: list[str], tokenizer: PreTrainedTokenizerFast, knowledge: list[Question], conditions: Conditions
) -> None:
    row("task", "before", "after", "knowledge after", "s a step")
    for name in names:
        task = NEW_TASKS[name]
        test = task.test_questions(200)
        model = with_lora(conditions)
        before = accuracy_by_family(model, tokenizer, test)[name]
        optimizer = adam(model, conditions.rate)
        seconds = learn(model, optimizer, tokenizer, task.train_questions(2000, conditions.seed), conditions)
        after = accuracy_by_family(model, tokenizer, test)[name]
        row(name, before, after, mean(accuracy_by_family(model, tokenizer, knowledge)), seconds)


def calibrate_sequence(
    names: list[str], tokenizer: PreTrainedTokenizerFast, knowledge: list[Question], conditions: Conditions
) -> None:
    row("after task", "just learned", "knowledge", "weakest family")
    model = with_lora(conditions)
    for name in names:
        task = NEW_TASKS[name]
        optimizer = adam(model, conditions.rate)
        learn(model, optimizer, tokenizer, task.train_questions(2000, conditions.seed), conditions)
        after = accuracy_by_family(model, tokenizer, task.test_questions(200))[name]
        kept = accuracy_by_family(model, tokenizer, knowledge)
        weakest = min(kept, key=kept.__getitem__)
        row(name, after, mean(kept), f"{weakest} {kept[weakest]:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("knowledge", "tasks", "sequence"))
    parser.add_argument("--tasks", nargs="*", help="names; all, or the first five in a sequence")
    parser.add_argument("--rate", type=float, default=Conditions.rate)
    parser.add_argument("--alpha", type=int, default=Conditions.alpha)
    parser.add_argument("--seed", type=int, default=Conditions.seed)
    parser.add_argument("--per-family", type=int, default=50)
    arguments = parser.parse_args()
    conditions = Conditions(rate=arguments.rate, alpha=arguments.alpha, seed=arguments.seed)
    tokenizer = load_bundled_tokenizer()
    knowledge = knowledge_questions(arguments.per_family)
    names = arguments.tasks or list(NEW_TASKS)
    if arguments.part == "knowledge":
        calibrate_knowledge(tokenizer, knowledge)
    elif arguments.part == "tasks":
        calibrate_tasks(names, tokenizer, knowledge, conditions)
    else:
        calibrate_sequence(arguments.tasks or names[:5], tokenizer, knowledge, conditions)


if __name__ == "__main__":
    main()
