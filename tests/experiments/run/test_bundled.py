import io
from pathlib import Path

import pytest
from rich.console import Console

from secura.experiments.run.prepare import prepare_run
from secura.experiments.run.train import RunResult, train_and_report
from secura.experiments.settings.layers import load_config


def _run(out: Path, *more: str) -> RunResult:
    few = ["retention.per_family=8", "data.test_rows=40", f"out={out}"]
    return train_and_report(prepare_run(load_config(assignments=[*few, *more])), Console(file=io.StringIO()))


@pytest.mark.ci
def test_the_default_run_teaches_the_bundled_model_a_task_it_could_not_do(tmp_path: Path) -> None:
    result = _run(tmp_path / "out")
    new, known = result.new_task.total, result.retention.total
    assert new.before / new.asked < 0.2
    assert new.after / new.asked > 0.75  # 0.90 to 0.95 over the seeds of docs/log.md
    assert known.before / known.asked > 0.95
    assert known.kept is not None
    assert known.kept > 0.9  # 0.97 to 0.98 over the same seeds


def test_the_default_run_is_little_work(tmp_path: Path) -> None:
    run = prepare_run(load_config(assignments=[f"out={tmp_path / 'out'}"]))
    longest = max(len(example.tokens) for example in run.task.examples)
    tokens = run.task.steps * run.config.training.batch_size * longest
    # Multiplications and additions, forward and backward. One core of a laptop does more than 10^10 in a second.
    assert 6 * run.base_weights * tokens < 1e12


def test_another_bundled_task_is_named_with_data(tmp_path: Path) -> None:
    result = _run(tmp_path / "out", "data.path=younger", "method.name=lora", "training.steps=2")
    assert result.task == "younger"
    assert result.new_task.total.asked == 40


@pytest.mark.slow
def test_full_training_learns_the_default_task_and_forgets(tmp_path: Path) -> None:
    result = _run(tmp_path / "out", "method.name=full", "training.learning_rate=0.001")
    kept = result.retention.total.kept
    assert kept is not None
    assert result.new_task.total.after > result.new_task.total.before
    assert kept < 1.0
    assert result.retention.flips
