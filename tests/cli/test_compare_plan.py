from pathlib import Path

import pytest

from secura.cli.app import run

GRID = """
name: small
base: {training: {steps: 40, batch_size: 2}, data: {max_length: 16}}
methods: [{name: lora, settings: {method.adapter: {r: 8}}}, {name: cabr-lora, settings: {method.adapter: {r: 8}}}]
models: [Qwen/Qwen2-1.5B]
tasks: [own_things]
seeds: [0, 1, 2]
"""


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "100")
    file = tmp_path / "grid.yaml"
    file.write_text(GRID)
    return str(file)


def test_a_plan_names_runs_steps_memory_and_hours_without_a_network(
    grid: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["compare", "plan", grid]) == 0
    shown = capsys.readouterr().out
    assert "small: Qwen/Qwen2-1.5B" in shown
    assert "in all: 6 runs, 240 steps" in shown
    assert "L4: every run fits" in shown
    assert "cabr-lora" in shown


def test_settings_of_the_grids_can_be_changed_for_a_plan(grid: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "plan", grid, "--set", "base.training.steps=100"]) == 0
    assert "in all: 6 runs, 600 steps" in capsys.readouterr().out


def test_trying_a_grid_says_how_each_method_did(grid: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "plan", "--try", grid]) == 0
    shown = capsys.readouterr().out
    assert "works  lora on Qwen/Qwen2-1.5B: loss" in shown
    assert "every trial worked" in shown


def test_a_method_that_fails_its_trial_ends_the_command_with_1(
    grid: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from secura.experiments.comparison.plan import trial

    monkeypatch.setattr(trial, "_reloaded", lambda config, saved, trained: trial._drawn(config))
    assert run(["compare", "plan", "--try", grid]) == 1
    assert "FAILED lora on Qwen/Qwen2-1.5B: saved and loaded again, a logit differs" in capsys.readouterr().out


def test_a_rank_that_does_not_fit_is_wrong_usage(grid: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(grid).write_text(GRID.replace("r: 8", "r: 300"))
    assert run(["compare", "plan", grid]) == 3
    assert "r is at most 256 there" in capsys.readouterr().err
