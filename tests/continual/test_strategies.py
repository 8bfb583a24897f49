import copy
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from continual.two_parameter_model import TwoParameterModel, collate, row
from peft import LoraConfig, get_peft_model
from references import strategies as reference
from torch import nn
from torch.autograd import grad
from torch.testing import assert_close

from secura import ConfigError
from secura.continual.ewc import EWC
from secura.continual.ilora import ILoRA
from secura.continual.kl_anchor import KLAnchor
from secura.continual.lwf import LwF
from secura.continual.o_lora import OLoRA
from secura.continual.replay import Replay
from secura.continual.reservoir import Reservoir
from secura.continual.sequential import Sequential
from secura.continual.strategy import Step, Strategy
from secura.continual.trained_weights import copied_values, values_in_place

ROWS = [[0, 1, 1], [1, 0, 0], [1, 1, 0], [0, 0, 1], [1, 1, 1]]
STRATEGIES: list[Any] = [
    lambda: Sequential(),
    lambda: Replay(buffer_examples=3, share=0.5),
    lambda: EWC(strength=3.0, fisher_examples=4),
    lambda: EWC(strength=3.0, decay=0.5),
    lambda: ILoRA(keep=0.9, replayed_rows=2),
    lambda: KLAnchor(strength=2.0),
    lambda: LwF(),
]


def rows(*which: int) -> list[dict[str, list[int]]]:
    return [row(*ROWS[index]) for index in which]


def step_on(model: TwoParameterModel, batch: list[Any], number: int = 0) -> Step:
    return Step(model=model, inputs=collate(batch), states=None, collate=collate, number=number)


def term_and_gradient(strategy: Strategy, model: TwoParameterModel, batch: list[Any]) -> tuple[float, list[float]]:
    term = strategy.loss_term(step_on(model, batch))
    assert term is not None
    gradients = grad(term, [model.slope, model.offset])
    return term.item(), [one.item() for one in gradients]


def numeric_gradient(function: Any, at: tuple[float, float]) -> list[float]:
    h = 1e-6
    return [
        (function((at[0] + h, at[1])) - function((at[0] - h, at[1]))) / (2 * h),
        (function((at[0], at[1] + h)) - function((at[0], at[1] - h))) / (2 * h),
    ]


@pytest.mark.parametrize("estimate", ["per_example", "batch_mean"])
def test_ewc_is_the_sum_of_each_tasks_quadratic(estimate: Any) -> None:
    strategy = EWC(strength=3.0, estimate=estimate, batch_size=5)
    anchors, fishers = [(0.3, -0.2), (0.9, 0.4)], []
    for index, anchor in enumerate(anchors):
        part = ROWS[: 3 + index]
        strategy.end_task(TwoParameterModel(*anchor), index, [row(*one) for one in part], collate)
        fishers.append(
            reference.fisher_per_example(anchor, part)
            if estimate == "per_example"
            else reference.fisher_batch_mean(anchor, [part])
        )
    here = (0.5, 0.1)
    term, gradient = term_and_gradient(strategy, TwoParameterModel(*here), rows(0))
    assert term == pytest.approx(reference.ewc_term(here, fishers, anchors, 3.0), rel=1e-6)
    wanted = numeric_gradient(lambda at: reference.ewc_term(at, fishers, anchors, 3.0), here)
    assert gradient == pytest.approx(wanted, rel=1e-5)


def test_the_online_form_decays_the_old_fisher_and_keeps_the_last_anchor() -> None:
    strategy = EWC(strength=2.0, decay=0.5)
    anchors = [(0.3, -0.2), (0.9, 0.4)]
    first, second = (reference.fisher_per_example(anchor, ROWS) for anchor in anchors)
    for index, anchor in enumerate(anchors):
        strategy.end_task(TwoParameterModel(*anchor), index, rows(0, 1, 2, 3, 4), collate)
    fisher = (0.5 * first[0] + second[0], 0.5 * first[1] + second[1])
    term, _ = term_and_gradient(strategy, TwoParameterModel(0.5, 0.1), rows(0))
    assert term == pytest.approx(reference.ewc_term((0.5, 0.1), [fisher], [anchors[1]], 2.0), rel=1e-6)


def test_the_two_fisher_estimates_differ_by_about_the_batch_size() -> None:
    draw = torch.Generator().manual_seed(0)
    many = [row(*torch.randint(0, 2, (4,), generator=draw).tolist()) for _ in range(400)]
    terms = []
    for estimate in ("per_example", "batch_mean"):
        strategy = EWC(strength=1.0, estimate=estimate, batch_size=8, fisher_examples=400)
        strategy.end_task(TwoParameterModel(0.0, 0.0), 0, many, collate)
        terms.append(term_and_gradient(strategy, TwoParameterModel(1.0, 1.0), rows(0))[0])
    assert 5 < terms[0] / terms[1] < 12


@pytest.mark.parametrize(("positions", "tokens"), [("answer", [0, 1]), ("all", [0, 1, 1])], ids=["answer", "all"])
def test_the_kl_anchor_is_the_mean_divergence_from_the_base(positions: Any, tokens: list[int]) -> None:
    base, adapter = (0.4, -0.3), (0.5, 0.2)
    strategy = KLAnchor(strength=2.0, positions=positions)
    model = TwoParameterModel(*adapter, base=base)
    strategy.begin_task(model, 0)
    term, gradient = term_and_gradient(strategy, model, rows(0))

    def wanted(at: tuple[float, float]) -> float:
        return 2 * reference.mean_kl(base, (base[0] + at[0], base[1] + at[1]), tokens)

    assert term == pytest.approx(wanted(adapter), rel=1e-5)
    assert gradient == pytest.approx(numeric_gradient(wanted, adapter), rel=1e-4)


def test_the_kl_anchor_counts_the_prompt_alone_by_default() -> None:
    model = TwoParameterModel(0.5, 0.2)
    inputs = {
        "input_ids": torch.tensor([[0, 1, 1, 0]]),
        "labels": torch.tensor([[-100, -100, -100, 0]]),
        "attention_mask": torch.ones(1, 4),
    }
    term = KLAnchor().loss_term(Step(model=model, inputs=inputs, states=None, collate=collate, number=0))
    assert term is not None
    # The third token predicts the answer, the last one nothing that is learned.
    assert term.item() == pytest.approx(reference.mean_kl((0, 0), (0.5, 0.2), [0, 1, 0]), rel=1e-5)


def test_a_kl_anchor_without_an_adapter_is_refused() -> None:
    with pytest.raises(ConfigError, match="full fine-tuning has none"):
        KLAnchor().begin_task(torch.nn.Linear(2, 2), 0)


def test_lwf_is_the_softened_divergence_from_the_model_before_the_task() -> None:
    before, now = (0.3, -0.2), (0.8, 0.1)
    strategy, model = LwF(strength=1.5, temperature=2.0), TwoParameterModel(*before)
    strategy.begin_task(model, 1)
    with torch.no_grad():
        model.slope.fill_(now[0])
        model.offset.fill_(now[1])
    term, gradient = term_and_gradient(strategy, model, rows(0))

    def wanted(at: tuple[float, float]) -> float:
        return 1.5 * reference.mean_kl(before, at, [0, 1], temperature=2.0)

    assert term == pytest.approx(wanted(now), rel=1e-5)
    assert gradient == pytest.approx(numeric_gradient(wanted, now), rel=1e-4)
    assert (model.slope.item(), model.offset.item()) == now


def test_lwf_leaves_the_first_task_free() -> None:
    strategy, model = LwF(), TwoParameterModel(0.1, 0.2)
    strategy.begin_task(model, 0)
    assert strategy.loss_term(step_on(model, rows(0))) is None


def lora_of_rank_one(*factor: float) -> torch.nn.Module:
    """A layer of two inputs whose LoRA has one row, so two parameters in A."""
    model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(2, 3)), LoraConfig(r=1, target_modules=["0"]))  # type: ignore[arg-type]
    with torch.no_grad():
        model.get_parameter("base_model.model.0.lora_A.default.weight").copy_(torch.tensor([factor]))
    return model


def test_o_lora_is_the_squared_inner_product_with_every_earlier_tasks_directions(tmp_path: Path) -> None:
    earlier, now = [(0.3, -0.2), (0.9, 0.4)], (0.5, 0.1)
    strategy = OLoRA(strength=0.7)
    for index, factor in enumerate(earlier):
        strategy.end_task(lora_of_rank_one(*factor), index, [], collate)
    strategy.save(tmp_path)
    resumed = OLoRA(strength=0.7)
    resumed.load(tmp_path)

    def wanted(at: tuple[float, float]) -> float:
        return reference.o_lora_term([at], [[one] for one in earlier], 0.7)

    for one in (strategy, resumed):
        model: Any = lora_of_rank_one(*now)
        one.begin_task(model, 2)
        term = one.loss_term(Step(model=model, inputs={}, states=None, collate=collate, number=0))
        assert term is not None
        factor = model.get_parameter("base_model.model.0.lora_A.default.weight")
        assert term.item() == pytest.approx(wanted(now), rel=1e-6)
        assert grad(term, factor)[0][0].tolist() == pytest.approx(numeric_gradient(wanted, now), rel=1e-5)


def test_o_lora_leaves_the_first_task_free_and_refuses_a_model_without_lora() -> None:
    strategy, model = OLoRA(), lora_of_rank_one(0.1, 0.2)
    strategy.begin_task(model, 0)
    assert strategy.loss_term(Step(model=model, inputs={}, states=None, collate=collate, number=0)) is None
    with pytest.raises(ConfigError, match="this model trains none"):
        strategy.begin_task(torch.nn.Linear(2, 2), 0)


def test_ilora_replays_and_holds_the_hidden_states_near_the_slow_ones() -> None:
    slow, fast = (0.3, -0.2), (0.8, 0.1)
    strategy, model = ILoRA(keep=0.9, consistency=0.7, replayed_rows=5, buffer_examples=5), TwoParameterModel(*slow)
    strategy.begin_task(model, 0)
    strategy.end_task(model, 0, rows(0, 1, 2, 3, 4), collate)
    strategy.begin_task(model, 1)
    with torch.no_grad():
        model.slope.fill_(fast[0])
        model.offset.fill_(fast[1])
    term, gradient = term_and_gradient(strategy, model, rows(0))

    def wanted(at: tuple[float, float]) -> float:
        distance = reference.mean_squared_score_distance(at, slow, ROWS)
        return reference.mean_cross_entropy(at, ROWS) + 0.7 * distance

    assert term == pytest.approx(wanted(fast), rel=1e-6)
    assert gradient == pytest.approx(numeric_gradient(wanted, fast), rel=1e-5)


def test_iloras_slow_weights_are_the_exponential_average_and_are_served() -> None:
    strategy, model = ILoRA(keep=0.9), TwoParameterModel(0.0, 0.0)
    strategy.begin_task(model, 0)
    slow = 0.0
    for fast in (1.0, -2.0, 3.0):
        with torch.no_grad():
            model.slope.fill_(fast)
        strategy.after_step(model)
        slow = 0.9 * slow + 0.1 * fast
    strategy.prepare_to_serve(model)
    assert model.slope.item() == pytest.approx(slow)
    strategy.back_to_training(model)
    assert model.slope.item() == 3.0


@pytest.mark.parametrize(("share", "new", "replayed"), [(0.5, 4, 4), (0.25, 12, 4), (0.2, 8, 2)])
def test_replayed_rows_make_up_their_share_of_the_batch(share: float, new: int, replayed: int) -> None:
    strategy = Replay(buffer_examples=50, share=share)
    strategy.end_task(TwoParameterModel(0, 0), 0, [row(0, 0)] * 50, collate)
    batch = strategy.mixed([row(1, 1)] * new, 0)
    assert [one["tokens"] for one in batch] == [[1, 1]] * new + [[0, 0]] * replayed


@pytest.mark.parametrize(("share", "replayed"), [(0.01, 16), (0.05, 84)])
def test_a_share_of_less_than_half_a_row_is_one_row_in_so_many_batches(share: float, replayed: int) -> None:
    strategy = Replay(share=share)
    strategy.end_task(TwoParameterModel(0, 0), 0, [row(0, 0)] * 50, collate)
    batches = [strategy.mixed([row(1, 1)] * 8, number) for number in range(200)]
    assert {len(batch) for batch in batches} == {8, 9}
    assert sum(len(batch) - 8 for batch in batches) == replayed
    assert replayed / (replayed + 1600) == pytest.approx(share, rel=0.02)


def test_the_first_task_replays_nothing() -> None:
    assert Replay().mixed(rows(0, 1), 0) == rows(0, 1)


def test_a_reservoir_keeps_every_example_with_the_same_probability() -> None:
    kept = [0] * 12
    for seed in range(3000):
        buffer = Reservoir(4, seed)
        buffer.add(range(12))
        for one in buffer.rows:
            kept[one] += 1
    # 3000 · 4/12 = 1000, standard deviation 26
    assert all(abs(count - 1000) < 130 for count in kept)


def test_what_is_drawn_depends_on_the_number_of_the_draw_alone() -> None:
    first, second = Reservoir(6, 1), Reservoir(6, 1)
    for buffer in (first, second):
        buffer.add(range(40))
    first.draw(3, 0)
    assert first.draw(3, 7) == second.draw(3, 7)
    assert first.draw(3, 8) != first.draw(3, 7) or first.draw(3, 9) != first.draw(3, 7)


@pytest.mark.parametrize("build", STRATEGIES)
def test_a_saved_state_goes_on_as_the_one_that_was_never_saved(build: Any, tmp_path: Path) -> None:
    strategy, model = build(), TwoParameterModel(0.3, -0.2)
    strategy.begin_task(model, 0)
    strategy.after_step(model)
    strategy.end_task(model, 0, rows(0, 1, 2, 3), collate)
    strategy.begin_task(model, 1)
    with torch.no_grad():
        model.slope.fill_(0.7)
    strategy.after_step(model)
    strategy.save(tmp_path)
    resumed = build()
    resumed.load(tmp_path)
    other = copy.deepcopy(model)
    resumed.begin_task(other, 1)
    for one, its in ((strategy, model), (resumed, other)):
        with torch.no_grad():
            its.offset.fill_(0.4)
        one.after_step(its)
    assert resumed.mixed(rows(4), 3) == strategy.mixed(rows(4), 3)
    terms = [one.loss_term(step_on(its, rows(0, 2), 5)) for one, its in ((strategy, model), (resumed, other))]
    assert_close(terms[0], terms[1], rtol=0, atol=0) if terms[0] is not None else None
    assert (terms[0] is None) == (terms[1] is None)
    strategy.prepare_to_serve(model)
    resumed.prepare_to_serve(other)
    assert_close(model.slope, other.slope, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Replay(share=1.0), "share is 1.0"),
        (lambda: Replay(buffer_examples=0), "capacity is 0"),
        (lambda: EWC(strength=0.0), "strength is 0.0"),
        (lambda: EWC(decay=2.0), "decay is 2.0"),
        (lambda: ILoRA(keep=1.0), "keep is 1.0"),
        (lambda: ILoRA(replayed_rows=0), "replayed_rows is 0"),
        (lambda: KLAnchor(strength=-1.0), "strength is -1.0"),
        (lambda: LwF(temperature=0.0), "temperature 0.0"),
        (lambda: OLoRA(strength=0.0), "strength is 0.0"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


# ------------------------------------------------------------------ where the state lies


def state_of(strategy: Strategy) -> list[torch.Tensor]:
    dicts = [value for value in vars(strategy).values() if isinstance(value, dict)]
    return [tensor for held in dicts for tensor in held.values() if isinstance(tensor, torch.Tensor)]


def lora_on(device: str) -> Any:
    torch.manual_seed(0)
    base = nn.Sequential(OrderedDict(first=nn.Linear(5, 3), second=nn.Linear(3, 2)))
    config = LoraConfig(r=2, target_modules=["first", "second"], init_lora_weights=False)
    return get_peft_model(base, config).to(device)  # type: ignore[arg-type]  # any module can be adapted


PENALTIES: list[Any] = [
    lambda: EWC(strength=3.0),
    lambda: EWC(strength=3.0, decay=0.5),
    lambda: EWC(strength=3.0, protects="effective_weight"),
    lambda: OLoRA(strength=2.0),
]


def with_a_past(strategy: Any, model: Any) -> Any:
    """A strategy that has something to protect, without the forward passes of a Fisher estimate."""
    if isinstance(strategy, OLoRA):
        strategy.end_task(model, 0, [], collate)
        return strategy
    for name, value in strategy._values.current(model).items():
        strategy._add(name, torch.full_like(value.detach(), 0.5), value.detach() + 0.25)
    return strategy


def penalty_on(strategy: Strategy, model: Any) -> torch.Tensor:
    step = Step(model=model, inputs={}, states=None, collate=collate, number=0)
    term = strategy.loss_term(step)
    assert term is not None
    return term


@pytest.mark.parametrize("build", PENALTIES)
def test_a_state_that_was_read_moves_to_the_model_and_stays_there(build: Any, tmp_path: Path) -> None:
    with_a_past(build(), lora_on("cpu")).save(tmp_path)
    strategy = build()
    strategy.load(tmp_path)
    assert {tensor.device.type for tensor in state_of(strategy)} == {"cpu"}
    # The meta device stands for a GPU: a tensor of the CPU can be moved to it, and not computed with beside it.
    assert penalty_on(strategy, lora_on("meta")).device.type == "meta"
    moved = state_of(strategy)
    assert {tensor.device.type for tensor in moved} == {"meta"}
    penalty_on(strategy, lora_on("meta"))
    assert all(one is other for one, other in zip(moved, state_of(strategy), strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("build", PENALTIES)
def test_a_state_that_was_read_gives_the_same_penalty_on_a_gpu(build: Any, tmp_path: Path) -> None:
    strategy, again = with_a_past(build(), lora_on("cpu")), build()
    strategy.save(tmp_path)
    again.load(tmp_path)
    model = lora_on("cuda")
    assert_close(penalty_on(again, model).cpu(), penalty_on(strategy, lora_on("cpu")))
    if isinstance(again, OLoRA):
        again.end_task(model, 1, [], collate)
    assert {tensor.device.type for tensor in state_of(again)} == {"cuda"}
    again.save(tmp_path)


def test_values_in_place_of_others_are_moved_once() -> None:
    values = copied_values(lora_on("cpu"))
    with values_in_place(lora_on("meta"), values):
        pass
    assert {value.device.type for value in values.values()} == {"meta"}


def test_o_lora_keeps_earlier_directions_beside_the_model() -> None:
    model = lora_on("meta")
    strategy = OLoRA()
    for task_index in range(2):
        strategy.end_task(model, task_index, [], collate)
    assert {tensor.device.type for tensor in state_of(strategy)} == {"meta"}
    assert {len(tensor) for tensor in state_of(strategy)} == {4}  # two tasks of rank 2
