"""Own text: while it learns, the model stays near its base on text that the base has written itself.

    term = λ k,  k = mean over positions of KL(p_base ‖ p_model)    on a few texts of the anchor bank in each pass

No retention data is needed: the base's own text stands for what the base knows (`secura.anchors`). What the base
thought of it is read from disk, so no second model is in memory and full fine-tuning can be held to its base as well;
a pass costs the forward and backward pass of the anchor rows alone. λ follows a budget of divergence
(`secura.continual.budget`), or is fixed. With `masked_answers` the model stays near its base on the task's own answers
too, in all but how likely the right token is:

    term = λ (k + mean over answer positions of KL(p_base ‖ p_model), both without the right token)

Dropout is off in the pass of the anchor rows, or the base would diverge from itself; it stays on under gradient
checkpointing, which computes the pass again in the mode of training.

Source:
    pseudo-rehearsal (Robins 1995), self-synthesized rehearsal (arXiv:2403.01244) and Magpie (arXiv:2406.08464) for the
    text; RL's Razor (arXiv:2509.04259) for KL to the base as what predicts forgetting.
"""

import json
import random
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from typing_extensions import override

from secura.adapters.sharding import whole_shape
from secura.anchors.bank import AnchorBank, read_bank
from secura.anchors.teacher import AnchorRows, Teacher, anchor_rows
from secura.continual.anchored_forward import predicts_an_answer, states_of
from secura.continual.budget import KLBudget
from secura.continual.divergence import mean_divergence
from secura.continual.strategy import Collate, Step, Strategy
from secura.errors import ConfigError
from secura.evaluation.causal_model import in_evaluation_mode
from secura.evaluation.hidden_states import hidden_states
from secura.numerics.divergence import divergence_from_likeliest
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
        own_answers: bool = False,
        live_teacher: bool = False,
        masked_answers: bool = False,
        seed: int = 0,
    ) -> None:
        """Set what the model is held to, and how hard.

        Args:
            share: tokens of anchor texts in each pass, as a share of its batch's tokens; one text at least.
            strength: λ, where it is to be fixed; None lets it follow the budget.
            budget_nats: κ, the divergence that is allowed, in nats a token.
            every_steps: steps from one to the next that has the term.
            bank: folder of an anchor bank, as `secura anchors` makes it; `secura train` makes one where it is None.
            texts: how many the base writes where `secura train` makes the bank; None is what suits its size.
            tokens: the longest of them.
            own_answers: whether the base's own answers to the prompts that are trained on are among them, where
                `secura train` makes the bank. They hold the model to more of what it knew about such prompts, and
                against what it is to learn.
            live_teacher: asks the model with its adapter off in each pass, in place of the cache: the whole of KL,
                at a third more time.
            masked_answers: holds the model on the task's own answers too; needs an adapter.
            seed: fixes which texts each pass has.

        Raises:
            ValueError: for a value out of its range.
        """
        if not 0 < share <= 1:
            raise ValueError(f"share is {share}, but must be above 0 and at most 1: anchor tokens for each of a batch.")
        if strength is not None and not strength > 0:
            raise ValueError(f"strength is {strength}, but must be above 0, or null to follow the budget.")
        for name, value, least in (("every_steps", every_steps, 1), ("texts", texts, 2), ("tokens", tokens, 2)):
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}, but must be {least} at least.")
        self.share = share
        self.fixed_strength = strength
        self.budget = KLBudget(nats=budget_nats)
        self.every_steps = every_steps
        self.own_answers = own_answers
        self.live_teacher = live_teacher
        self.masked_answers = masked_answers
        self.seed = seed
        self._folder = None if bank is None else Path(bank)
        self._bank: AnchorBank | None = None
        self._teacher: Teacher | None = None
        self._task_index = 0
        self._passes = (-1, 0)
        self._sums: list[Tensor] = []
        self._last: dict[str, float] = {}
        self._silences_dropout = False

    @property
    def strength(self) -> float:
        """λ of the next step."""
        return self.budget.strength if self.fixed_strength is None else self.fixed_strength

    def use_bank(self, folder: Path) -> None:
        """Name the bank, where it was not known when the strategy was made."""
        self._folder, self._bank = folder, None

    @override
    def begin_task(self, model: nn.Module, task_index: int) -> None:
        self._task_index = task_index
        self._passes, self._sums = (-1, 0), []
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
        if step.number % self.every_steps:
            return None
        tokens: Tensor = step.inputs["input_ids"]
        drawn = self._drawn(step.number, tokens.numel())
        found = self._divergence(step.model, drawn, tokens.device)
        self._sums.append(found.detach())
        if self.masked_answers:
            found = found + self._on_answers(step)
        return self.strength * found

    def _drawn(self, number: int, batch_tokens: int) -> list[int]:
        """The texts of this pass, by its step, its place in the step and its process."""
        assert self._bank is not None
        known = self._bank.trained_on
        mean = sum(len(self._bank.texts[index].tokens) for index in known) / len(known)
        count = min(len(known), max(1, round(self.share * batch_tokens / mean)))
        self._passes = (number, self._passes[1] + 1 if self._passes[0] == number else 0)
        process = dist.get_rank() if dist.is_initialized() else 0
        name = f"{self.seed}/{self._task_index}/{number}/{self._passes[1]}/{process}"
        return random.Random(name).sample(known, count)

    def _divergence(self, model: Any, texts: Sequence[int], device: torch.device) -> Tensor:
        """k of some texts."""
        assert self._bank is not None
        rows = anchor_rows([self._bank.texts[index] for index in texts], device)
        with in_evaluation_mode(model) if self._silences_dropout else nullcontext():
            if self._teacher is None:
                return self._live_divergence(model, rows)
            read = hidden_states(model, rows.inputs)
        known = [each.to(device) for each in self._teacher.of(texts)]
        return read.measured(
            lambda logits, tokens, log_probabilities, log_rest: divergence_from_likeliest(
                tokens, log_probabilities, log_rest, logits
            ),
            rows.counted,
            *known,
        ).mean()

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

    @override
    def after_step(self, model: nn.Module) -> None:
        if not self._sums:
            return
        total = torch.stack([torch.stack(self._sums).sum(), self._sums[0].new_tensor(len(self._sums))])
        self._sums = []
        if dist.is_initialized():
            dist.all_reduce(total)
        measured = (total[0] / total[1]).item()
        self._last = {"anchor_kl": measured, "anchor_strength": self.strength}
        self.budget.observe(measured)

    @override
    def logged(self) -> Mapping[str, float]:
        if not self._last or self.budget.mean is None:
            return {}
        return {**self._last, "anchor_kl_mean": self.budget.mean, "anchor_kl_budget": self.budget.nats}

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
                total += counted * self._divergence(model, batch, device).item()
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
        write_json(folder / _STATE_FILE, self.budget.state())

    @override
    def load(self, folder: Path) -> None:
        self.budget.load_state(json.loads((folder / _STATE_FILE).read_text(encoding="utf-8")))
