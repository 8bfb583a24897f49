from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from secura.errors import ConfigError
from secura.experiments.comparison.grid.grid_run import GridRun
from secura.experiments.comparison.plan import grid_plan
from secura.experiments.comparison.plan.grid_plan import plan_runs, runs_of_files


def test_the_paper_on_llama_3_trains_what_its_formula_says(tmp_path: Path) -> None:
    (row,) = plan_runs(_runs(tmp_path, "meta-llama/Meta-Llama-3-8B", "secura-paper", "{r: 150, inner_r: 200}")).rows
    assert row.largest.trained_weights == 2 * 150 * 200 * 2 * 32  # 2 r k for each of q and v in 32 layers
    assert (row.runs, row.steps) == (2, 2 * 40)
    assert 16.06e9 < row.largest.memory.weights < 16.10e9  # 8.03 G weights in bfloat16, and the adapter
    moved = 32 * (4096 * 4096 + 1024 * 4096) * 4
    assert row.largest.memory.references == moved


def test_rows_add_up_to_the_plan_and_unknown_steps_stay_unknown(tmp_path: Path) -> None:
    runs = _runs(tmp_path, "bundled", "lora", "{}")
    whole = plan_runs(runs)
    assert (whole.runs, whole.steps) == (2, 80)
    assert whole.flops == pytest.approx(80 * whole.rows[0].largest.flops_per_step)
    some = plan_runs([*runs, _without_steps(runs[0])])
    assert (some.runs, some.steps, some.flops) == (3, None, None)
    assert any("set training.steps" in note for note in some.notes)


def test_a_rank_that_is_too_large_is_refused_by_the_name_of_the_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cabr-lora on Qwen/Qwen2-1.5B: r is 300, but layer .*v_proj is 256 × 1536"):
        plan_runs(_runs(tmp_path, "Qwen/Qwen2-1.5B", "cabr-lora", "{r: 300, inner_r: 300}"))


WIDTHS = {"q_proj": 4096 * 4096, "v_proj": 1024 * 4096}  # of Llama 3 8B, which has 32 layers


@pytest.mark.parametrize(
    ("settings", "held", "folds"),
    [
        ("method: {adapter: {r: 8, norm: bounded}}", 0, 0),  # nothing folds
        ("method: {fold_every: 10, adapter: {r: 8, norm: bounded}}", 1, 4),
        ("method: {fold_every: task, adapter: {r: 8, norm: bounded}}", 1, 1),
        ("method: {fold_every: 10, adapter: {r: 8, norm: bounded, reference: fixed}}", 0, 1),
    ],
)
def test_a_run_that_folds_holds_a_moved_reference_and_its_folds(
    settings: str, held: int, folds: int, tmp_path: Path
) -> None:
    memory = plan_runs(_declared(tmp_path, f"{{{settings}}}", "tasks: [own_things]")).rows[0].largest.memory
    assert memory.references == held * 32 * sum(WIDTHS.values()) * 4
    assert memory.folds == folds * 64 * 8 * 8 * 4


@pytest.mark.parametrize(
    ("settings", "held", "folds"),
    [
        ("method: {adapter: {r: 8}}", 1, 2),  # the method's own boundary is to fold
        ("method: {boundary: keep, adapter: {r: 8}}", 0, 0),
        ("method: {fold_every: 10, adapter: {r: 8}}", 1, 2 * (4 + 1)),
        ("method: {fold_every: 10, boundary: keep, adapter: {r: 8}}", 1, 2 * 4),
        ("method: {adapter: {r: 8, norm: none}}", 0, 2),
    ],
)
def test_a_sequence_that_folds_between_tasks_holds_a_moved_reference_and_its_folds(
    settings: str, held: int, folds: int, tmp_path: Path
) -> None:
    runs = _declared(tmp_path, f"{{{settings}, tasks: [own_things, two_steps]}}", "kind: sequence")
    memory = plan_runs(runs).rows[0].largest.memory
    assert memory.references == held * 32 * sum(WIDTHS.values()) * 4
    assert memory.folds == folds * 64 * 8 * 8 * 4


def test_runs_that_differ_by_seed_task_or_rate_are_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()
    for name in ("model_on_meta", "count_step"):
        monkeypatch.setattr(grid_plan, name, _noted(getattr(grid_plan, name), calls))
    grid_plan._counted.cache_clear()
    varied = "tasks: [own_things, two_steps]\nseeds: [0, 1]\nlearning_rates: [1.0e-3, 1.0e-4]"
    assert plan_runs(_declared(tmp_path, "{}", varied)).runs == 8
    assert calls == {"model_on_meta": 1, "count_step": 1}


@pytest.mark.parametrize(
    ("settings", "more", "says"),
    [
        ("{}", "", "loading a model, asking it questions, and what PyTorch's allocator loses in gaps are not counted"),
        ("{}", "measure: [spectra, gradient_norms]", "what measuring spectra takes is not counted"),
        ("{data: {max_length: null}}", "", "rows count as 512 tokens long"),
        ("{method: {start_from: some/adapter}}", "", "the adapter in method.start_from is not read"),
    ],
)
def test_what_is_not_counted_is_said(settings: str, more: str, says: str, tmp_path: Path) -> None:
    notes = plan_runs(_declared(tmp_path, settings, f"tasks: [own_things]\n{more}")).notes
    assert any(says in note for note in notes)


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("{name: lora, strategy: replay}", "what replay compute or hold besides the step is not counted"),
        ("{name: lora, strategy: o_lora, settings: {method.boundary: anew}}", "what o_lora compute or hold"),
        ("{name: osf}", "what osf compute before the first step is not counted"),
    ],
)
def test_what_a_strategy_or_a_start_takes_is_not_counted_and_said(method: str, says: str, tmp_path: Path) -> None:
    runs = _declared(tmp_path, "{tasks: [own_things, two_steps]}", "kind: sequence", method=method)
    assert any(says in note for note in plan_runs(runs).notes)


def test_a_plain_method_has_no_note_of_a_strategy_or_a_start(tmp_path: Path) -> None:
    (note,) = plan_runs(_declared(tmp_path, "{}", "tasks: [own_things]", method="lora")).notes
    assert note.startswith("loading a model")


def _noted(function: Callable[..., Any], calls: Counter[str]) -> Callable[..., Any]:
    def noted(*args: Any, **more: Any) -> Any:
        calls[function.__name__] += 1
        return function(*args, **more)

    return noted


def _declared(folder: Path, settings: str, more: str, method: str = "") -> list[GridRun]:
    """Runs of a small grid on Llama 3 8B."""
    method = method or "{name: secura, settings: {method.adapter.target_modules: [q_proj, v_proj]}}"
    file = folder / "grid.yaml"
    file.write_text(
        "name: small\nbase: {training: {steps: 40, batch_size: 2}, data: {max_length: 16}}\n"
        f"methods: [{method}]\nmodels: [{{path: meta-llama/Meta-Llama-3-8B, settings: {settings}}}]\n{more}\n"
    )
    return runs_of_files([file])


def _runs(folder: Path, model: str, method: str, adapter: str) -> list[GridRun]:
    file = folder / "grid.yaml"
    file.write_text(
        f"name: small\nbase: {{training: {{steps: 40, batch_size: 2}}, data: {{max_length: 16}}}}\n"
        f"methods: [{{name: {method}, settings: {{method.adapter: {adapter}}}}}]\n"
        f"models: [{model}]\ntasks: [own_things]\nseeds: [0, 1]\n"
    )
    return runs_of_files([file])


def _without_steps(run: GridRun) -> GridRun:
    return replace(run, settings={**run.settings, "training": {**run.settings["training"], "steps": None}})
