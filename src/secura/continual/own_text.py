"""Own text: while it learns, the model stays near its base on text that the base has written itself.

    term = λ k,  k = mean over positions of KL(p_base ‖ p_model)    on a few texts of the anchor bank in each pass

No retention data is needed: the base's own text stands for what the base knows (`secura.anchors`). What the base
thought of it is read from disk, so no second model is in memory and full fine-tuning can be held to its base as well;
a pass costs the forward and backward pass of the anchor rows alone. λ follows a budget of divergence
(`secura.continual.budget`), or is fixed. With `masked_answers` the model stays near its base on the task's own answers
too, in all but how likely the right token is:

    term = λ (k + mean over answer positions of KL(p_base ‖ p_model), both without the right token)

In a sequence of tasks the model writes texts of each task that it has learned (`secura.anchors.task_texts`), and is
held to what it thought of them then. So there are two teachers, the base on its own text and the model at the end of
each earlier task on that task's, each with a budget of its own:

    term = λ k + λ' k' + w · mean over prompt positions of −log p_model,  k' on the texts of earlier tasks

The last part, a small weight w on the prompts of the task that is learned, is what lets the model write such prompts
itself when the task ends. It stands only where that is wanted.

Dropout is off in the pass of the anchor rows, or the base would diverge from itself; it stays on under gradient
checkpointing, which computes the pass again in the mode of training.

Source:
    pseudo-rehearsal (Robins 1995), self-synthesized rehearsal (arXiv:2403.01244) and Magpie (arXiv:2406.08464) for the
    text; RL's Razor (arXiv:2509.04259) for KL to the base as what predicts forgetting; LAMOL (arXiv:1909.03329) for a
    model that learns prompts too, to write samples of earlier tasks.
"""

import math
import random
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from typing_extensions import override

from secura.adapters.sharding import whole_shape
from secura.anchors.bank import AnchorBank, read_bank
from secura.anchors.teacher import AnchorRows, Teacher, anchor_rows
from secura.continual.anchored_forward import predicts_a_prompt, predicts_an_answer, states_of
from secura.continual.budget import KLBudget
from secura.continual.divergence import mean_divergence
from secura.continual.strategy import Collate, Step, Strategy
from secura.errors import ConfigError
from secura.evaluation.causal_model import in_evaluation_mode
from secura.evaluation.hidden_states import hidden_states
from secura.json_text import read_json
from secura.numerics.divergence import divergence_from_likeliest, log_probabilities_of
from secura.whole_files import write_json

_STATE_FILE = "budget.json"
_ROWS_AT_ONCE = 8


class OwnText(Strategy):
    """Holds a model to its base on the base's own text."""

    def __init__(
        self,
        *,
        share: float = 0.25,
        strength: float | None = None,
        budget_nats: float = 0.02,
        every_steps: int = 1,
        bank: str | None = None,
        texts: int | None = None,
        tokens: int | None = None,
        conversations: bool = True,
        own_answers: bool = False,
        live_teacher: bool = False,
        masked_answers: bool = False,
        task_texts: int | None = None,
        task_share: float = 0.25,
        task_budget_nats: float = 0.02,
        prompt_weight: float = 0.1,
        seed: int = 0,
    ) -> None:
        """Set what the model is held to, and how hard.

        Args:
            share: tokens of anchor texts in each pass, as a share of its batch's tokens; at least one text.
            strength: a fixed λ; None lets λ follow the budget.
            budget_nats: κ, the allowed divergence, in nats per token.
            every_steps: how many steps lie between two steps with the term.
            bank: folder of an anchor bank, as `secura anchors` makes it; if None, `secura train` makes one.
            texts: how many texts the base writes for a bank of `secura train`; None chooses by the model's size.
            tokens: length of the longest of them.
            conversations: whether a base with a chat template also writes conversations, for a bank of
                `secura train`.
            own_answers: whether a bank of `secura train` includes the base's own answers to the training prompts.
                They protect more of what the model knew about such prompts, but work against what it should learn.
            live_teacher: asks the model with its adapter off in each pass instead of using the cache: the full KL,
                for a third more time.
            masked_answers: also keeps the model close to the base on the task's own answers; needs an adapter.
            task_texts: in a sequence, how many texts the model writes for each task after learning it; 0 is none,
                None chooses by the model's size.
            task_share: tokens of these in each pass, of all earlier tasks together, as a share of its batch's tokens.
            task_budget_nats: κ', the allowed divergence on these.
            prompt_weight: w, the weight of the loss on prompts (answers have 1), for tasks after which texts are
                written.
            seed: fixes which texts each pass has.

        Raises:
            ValueError: for a value out of its range.
        """
        if not 0 < share <= 1:
            raise ValueError(f"share is {share}, but must be above 0 and at most 1: anchor tokens for each of a batch.")
        if strength is not None and not strength > 0:
            raise ValueError(f"strength is {strength}, but must be above 0, or null to follow the budget.")
        if not 0 < task_share <= 1:
            raise ValueError(
                f"task_share is {task_share}, but must be above 0 and at most 1; for none set task_texts to 0."
            )
        if not 0 < task_budget_nats < math.inf:
            raise ValueError(f"task_budget_nats is {task_budget_nats}, but must be above 0, in nats a token.")
        if not 0 <= prompt_weight < math.inf:
            raise ValueError(f"prompt_weight is {prompt_weight}, but must be 0 or more: answers have 1.")
        sizes = (
            ("every_steps", every_steps, 1),
            ("texts", texts, 2),
            ("tokens", tokens, 2),
            ("task_texts", task_texts, 0),
        )
        for name, value, least in sizes:
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}, but must be at least {least}.")
        self.share = share
        self.fixed_strength = strength
        self.budget = KLBudget(nats=budget_nats)
        self.task_budget = KLBudget(nats=task_budget_nats)
        self.task_texts = task_texts
        self.task_share = task_share
        self.prompt_weight = prompt_weight
        self.every_steps = every_steps
        self.conversations = conversations
        self.own_answers = own_answers
        self.live_teacher = live_teacher
        self.masked_answers = masked_answers
        self.seed = seed
        self._folder = None if bank is None else Path(bank)
        self._bank: AnchorBank | None = None
        self._teacher: Teacher | None = None
        self._task_folders: Sequence[Path] = ()
        self._task_texts: list[_Text] = []
        self._learns_prompts = False
        self._task_index = 0
        self._passes = (-1, 0)
        self._sums: list[Tensor] = []
        self._task_sums: list[Tensor] = []
        self._last: dict[str, float] = {}
        self._silences_dropout = False

    @property
    def strength(self) -> float:
        """λ of the next step."""
        return self.budget.strength if self.fixed_strength is None else self.fixed_strength

    @property
    def task_strength(self) -> float:
        """λ' of the next step."""
        return self.task_budget.strength if self.fixed_strength is None else self.fixed_strength

    def use_bank(self, folder: Path) -> None:
        """Name the bank, where it was not known when the strategy was made."""
        self._folder, self._bank = folder, None

    def hold_to_tasks(self, folders: Sequence[Path], *, learns_prompts: bool) -> None:
        """Hold the model to tasks that it has learned.

        Args:
            folders: the banks of these tasks.
            learns_prompts: whether the next task is one of which texts will be written.
        """
        self._task_folders, self._task_texts, self._learns_prompts = folders, [], learns_prompts

    @override
    def begin_task(self, model: nn.Module, task_index: int) -> None:
        self._task_index = task_index
        self._passes, self._sums, self._task_sums = (-1, 0), [], []
        self._open(model)
        dropout = any(isinstance(each, nn.Dropout) and each.p > 0 for each in model.modules())
        computes_twice = any(getattr(each, "gradient_checkpointing", False) for each in model.modules())
        self._silences_dropout = dropout and not computes_twice

    def _open(self, model: nn.Module) -> None:
        if (self.live_teacher or self.masked_answers) and not hasattr(model, "disable_adapter"):
            raise ConfigError(
                "live_teacher and masked_answers ask the base by switching the adapter off, and full fine-tuning has "
                "none; leave them out."
            )
        if self._task_folders and not self._task_texts:
            opened = [_of_task(folder) for folder in self._task_folders]
            self._task_texts = [(of_task, index) for of_task in opened for index in range(len(of_task.bank.texts))]
        if self._bank is not None:
            return
        if self._folder is None:
            raise ConfigError(
                "own_text needs an anchor bank; make one with: secura anchors MODEL --out DIR, and give it as bank."
            )
        bank = read_bank(self._folder)
        embeddings: Any = model.get_input_embeddings()  # type: ignore[operator]  # a language model's, wrapped or not
        rows = whole_shape(embeddings.weight)[0]
        largest = max(max(text.tokens) for text in bank.texts)
        if largest >= rows:
            raise ConfigError(
                f"the anchor bank in {self._folder} has token {largest}, and this model knows {rows}; it is a bank of "
                "another base."
            )
        self._teacher = None if self.live_teacher else Teacher(self._folder, bank)
        self._bank = bank

    @override
    def mixed(self, rows: list[Any], batch_number: int) -> list[Any]:
        del batch_number
        return rows

    @override
    def loss_term(self, step: Step) -> Tensor | None:
        learned = self.prompt_weight * self._on_prompts(step) if self._learns_prompts and self.prompt_weight else None
        if step.number % self.every_steps:
            return learned
        tokens: Tensor = step.inputs["input_ids"]
        drawn = self._drawn(step.number, tokens.numel())
        of_tasks = self._drawn_of_tasks(step.number, tokens.numel())
        found, of_earlier = self._divergences(step.model, drawn, of_tasks, tokens.device)
        self._sums.append(found.detach())
        if self.masked_answers:
            found = found + self._on_answers(step)
        term = self.strength * found
        if of_earlier is not None:
            self._task_sums.append(of_earlier.detach())
            term = term + self.task_strength * of_earlier
        return term if learned is None else term + learned

    def _drawn(self, number: int, batch_tokens: int) -> list[int]:
        """The texts of this pass, by its step, its place in the step and its process."""
        assert self._bank is not None
        known = self._bank.trained_on
        mean = sum(len(self._bank.texts[index].tokens) for index in known) / len(known)
        count = min(len(known), max(1, round(self.share * batch_tokens / mean)))
        self._passes = (number, self._passes[1] + 1 if self._passes[0] == number else 0)
        return random.Random(self._name_of_pass(number)).sample(known, count)

    def _drawn_of_tasks(self, number: int, batch_tokens: int) -> "list[_Text]":
        """The texts of earlier tasks of this pass, drawn of all tasks together."""
        known = self._task_texts
        if not known:
            return []
        mean = sum(len(of_task.bank.texts[index].tokens) for of_task, index in known) / len(known)
        count = min(len(known), max(1, round(self.task_share * batch_tokens / mean)))
        return random.Random(f"tasks/{self._name_of_pass(number)}").sample(known, count)

    def _name_of_pass(self, number: int) -> str:
        process = dist.get_rank() if dist.is_initialized() else 0
        return f"{self.seed}/{self._task_index}/{number}/{self._passes[1]}/{process}"

    def _divergences(
        self, model: Any, texts: Sequence[int], of_tasks: "Sequence[_Text]", device: torch.device
    ) -> tuple[Tensor, Tensor | None]:
        """k of some texts, and k' of some of earlier tasks; of both in one pass, where both are cached."""
        assert self._bank is not None
        with in_evaluation_mode(model) if self._silences_dropout else nullcontext():
            if self._teacher is None:
                live = self._live_divergence(model, anchor_rows([self._bank.texts[index] for index in texts], device))
                return live, _of_cached(model, of_tasks, device).mean() if of_tasks else None
            base = _Cached(self._bank, self._teacher)
            found = _of_cached(model, [*((base, index) for index in texts), *of_tasks], device)
        counted = sum(self._bank.texts[index].counted for index in texts)
        return found[:counted].mean(), found[counted:].mean() if of_tasks else None

    @staticmethod
    def _live_divergence(model: Any, rows: AnchorRows) -> Tensor:
        with torch.no_grad(), model.disable_adapter():
            base = hidden_states(model, rows.inputs)
        now = hidden_states(model, rows.inputs)
        return mean_divergence(base, now, rows.counted, as_teacher=model.disable_adapter)

    @staticmethod
    def _on_answers(step: Step) -> Tensor:
        """KL on the task's own answers, without the right token."""
        model: Any = step.model
        with torch.no_grad(), model.disable_adapter():
            base = states_of(model, step.inputs)
        now = step.states or states_of(model, step.inputs)
        answers = predicts_an_answer(step.inputs)
        right = step.inputs["labels"][:, 1:][answers[:, :-1]]
        return mean_divergence(base, now, answers, left_out=right, as_teacher=model.disable_adapter)

    @staticmethod
    def _on_prompts(step: Step) -> Tensor:
        """Nats a token of the prompts of a batch."""
        now = step.states or states_of(step.model, step.inputs)
        counted = predicts_a_prompt(step.inputs)
        read = step.inputs["input_ids"][:, 1:][counted[:, :-1]]
        found = now.measured(lambda logits, token: -log_probabilities_of(token[:, None], logits)[:, 0], counted, read)
        return found.mean() if len(found) else found.sum()

    @override
    def after_step(self, model: nn.Module) -> None:
        if not self._sums:
            return
        measured = _mean_of_everyone(self._sums)
        self._last = {"anchor_kl": measured, "anchor_strength": self.strength}
        self.budget.observe(measured)
        if self._task_sums:
            measured = _mean_of_everyone(self._task_sums)
            self._last |= {"anchor_task_kl": measured, "anchor_task_strength": self.task_strength}
            self.task_budget.observe(measured)
        self._sums, self._task_sums = [], []

    @override
    def logged(self) -> Mapping[str, float]:
        if not self._last or self.budget.mean is None:
            return {}
        of_tasks = {}
        if self.task_budget.mean is not None and "anchor_task_kl" in self._last:
            of_tasks = {"anchor_task_kl_mean": self.task_budget.mean, "anchor_task_kl_budget": self.task_budget.nats}
        return {**self._last, "anchor_kl_mean": self.budget.mean, "anchor_kl_budget": self.budget.nats, **of_tasks}

    @torch.no_grad()
    def held_out_divergence(self, model: nn.Module) -> float | None:
        """KL(base ‖ model) in nats a token on the texts that training left alone; None where there are none."""
        self._open(model)
        assert self._bank is not None
        held = [index for index, text in enumerate(self._bank.texts) if text.held_out]
        device = next(model.parameters()).device
        total = 0.0
        with in_evaluation_mode(model):  # type: ignore[arg-type]  # any module has these modes
            for first in range(0, len(held), _ROWS_AT_ONCE):
                batch = held[first : first + _ROWS_AT_ONCE]
                counted = sum(self._bank.texts[index].counted for index in batch)
                total += counted * self._divergences(model, batch, (), device)[0].item()
        tokens = sum(self._bank.texts[index].counted for index in held)
        return total / tokens if tokens else None

    @override
    def end_task(self, model: nn.Module, task_index: int, rows: Sequence[Any], collate: Collate) -> None:
        del model, task_index, rows, collate

    @override
    def prepare_to_serve(self, model: nn.Module) -> None:
        del model

    @override
    def back_to_training(self, model: nn.Module) -> None:
        del model

    @override
    def save(self, folder: Path) -> None:
        write_json(folder / _STATE_FILE, {**self.budget.state(), "tasks": self.task_budget.state()})

    @override
    def load(self, folder: Path) -> None:
        state = read_json(folder / _STATE_FILE)
        self.budget.load_state(state)
        if "tasks" in state:  # of an earlier version there is none
            self.task_budget.load_state(state["tasks"])


@dataclass(frozen=True, eq=False)
class _Cached:
    """A bank, and what its writer thought of it."""

    bank: AnchorBank
    teacher: Teacher


_Text = tuple[_Cached, int]
"""A text by its bank and its place there."""


def _of_task(folder: Path) -> _Cached:
    """The bank of an earlier task."""
    try:
        bank = read_bank(folder)
        return _Cached(bank, Teacher(folder, bank))
    except ConfigError as problem:
        raise ConfigError(
            f"the texts of an earlier task in {folder} are damaged; put that folder back as it was, or delete "
            f"{folder.parent} and every later stage, and the same command learns them again."
        ) from problem


def _of_cached(model: Any, texts: Sequence[_Text], device: torch.device) -> Tensor:
    """KL(writer ‖ model) at each position that counts, text after text."""
    rows = anchor_rows([of.bank.texts[index] for of, index in texts], device)
    read = hidden_states(model, rows.inputs)
    known = [torch.cat(each).to(device) for each in zip(*(of.teacher.of([index]) for of, index in texts), strict=True)]
    return read.measured(
        lambda logits, tokens, log_probabilities, log_rest: divergence_from_likeliest(
            tokens, log_probabilities, log_rest, logits
        ),
        rows.counted,
        *known,
    )


def _mean_of_everyone(found: Sequence[Tensor]) -> float:
    """The mean over the passes of all processes."""
    total = torch.stack([torch.stack(list(found)).sum(), found[0].new_tensor(len(found))])
    if dist.is_initialized():
        dist.all_reduce(total)
    return (total[0] / total[1]).item()
