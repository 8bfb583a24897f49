import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tiny_models import save_tiny_model
from transformers import TrainerCallback, TrainerControl, TrainerState

from secura.errors import StoppedError
from secura.experiments.run.prepare import PreparedRun, prepare_run
from secura.experiments.run.train import RunResult, train_and_report
from secura.experiments.settings.layers import load_config
from secura.experiments.settings.run import RunConfig
from secura.training.checkpoint_folder import checkpoint_of

pytestmark = pytest.mark.ci


def _config(model: Path, data: Path, retain: Path, out: Path, *more: str) -> RunConfig:
    small = ["training.steps=6", "training.batch_size=2", "training.eval_every=2", "data.test_rows=4"]
    flags = {"model.path": str(model), "data.path": str(data), "out": str(out), "retention.path": str(retain)}
    return load_config(None, [*small, *more], {**flags, "method.name": "lora"})


def _run(
    config: RunConfig, *callbacks: TrainerCallback, resume: bool = False
) -> tuple[PreparedRun[RunConfig], RunResult]:
    prepared = prepare_run(config, resume=resume)
    return prepared, train_and_report(prepared, Console(file=io.StringIO()), callbacks)


def _adapter(prepared: PreparedRun[RunConfig]) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in prepared.model.named_parameters() if weight.requires_grad}


def test_looking_changes_no_step_and_is_reported(
    llama_folder: Path, rows_file: Path, retain_file: Path, tmp_path: Path
) -> None:
    looked, result = _run(_config(llama_folder, rows_file, retain_file, tmp_path / "looked"))
    plain, _ = _run(_config(llama_folder, rows_file, retain_file, tmp_path / "plain", "training.eval_every=null"))
    for name, weight in _adapter(plain).items():
        assert torch.equal(weight, _adapter(looked)[name])
    assert [look.step for look in result.looks] == [2, 4, 6]
    assert result.looks[-1].loss == pytest.approx(result.new_task_loss.after, rel=1e-4)
    assert all(look.kept is None or 0 <= look.kept <= 1 for look in result.looks)
    stored = json.loads(result.report.read_text())
    assert [look["step"] for look in stored["evaluations"]] == [2, 4, 6]
    assert stored["best_step"] is None


def _rate_that_harms() -> list[str]:
    # The loss rises from the first look on, so that this is the best.
    return ["training.learning_rate=3.0", "training.best=gain", "training.schedule=constant", "training.warmup=0"]


@pytest.mark.parametrize("method", ["lora", pytest.param("secura", marks=pytest.mark.slow)])
def test_the_best_look_is_handed_out(
    method: str, llama_folder: Path, rows_file: Path, retain_file: Path, tmp_path: Path
) -> None:
    more = [*_rate_that_harms(), f"method.name={method}", "method.fold_every=null", "training.stop_at_divergence=false"]
    config = _config(llama_folder, rows_file, retain_file, tmp_path / "out", *more)
    config = config.model_copy(update={"method": config.method.model_copy(update={"name": method})})
    prepared, result = _run(config)
    losses = {look.step: look.loss for look in result.looks if look.loss is not None}
    best = min(losses, key=lambda step: losses[step])
    assert result.best_step == best
    assert result.new_task_loss.after == pytest.approx(losses[best], rel=1e-3)
    assert checkpoint_of(prepared.folder, best).is_dir()


def test_training_stops_once_looks_are_no_better(
    llama_folder: Path, rows_file: Path, retain_file: Path, tmp_path: Path
) -> None:
    more = [*_rate_that_harms(), "training.steps=40", "training.patience=2", "training.stop_at_divergence=false"]
    config = _config(llama_folder, rows_file, retain_file, tmp_path / "out", *more)
    _, result = _run(config)
    assert result.best_step is not None
    assert result.looks[-1].step == result.best_step + 4 < 40
    _, again = _run(config, resume=True)
    assert again.best_step == result.best_step
    assert [look.step for look in again.looks] == [look.step for look in result.looks]
    assert again.new_task_loss.after == pytest.approx(result.new_task_loss.after, rel=1e-6)


class _StopAfter(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: object, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def test_an_interrupted_run_remembers_its_best_look(
    llama_folder: Path, rows_file: Path, retain_file: Path, tmp_path: Path
) -> None:
    config = _config(llama_folder, rows_file, retain_file, tmp_path / "out", "training.best=gain")
    with pytest.raises((StoppedError, KeyboardInterrupt)):
        _run(config, _StopAfter(5))
    resumed, result = _run(config, resume=True)
    whole, expected = _run(_config(llama_folder, rows_file, retain_file, tmp_path / "whole", "training.best=gain"))
    assert result.looks == expected.looks
    assert result.best_step == expected.best_step
    for name, weight in _adapter(whole).items():
        assert torch.equal(weight, _adapter(resumed)[name])


def test_figures_go_to_a_tracker_with_knowledge_kept_beside_the_loss(
    llama_folder: Path, rows_file: Path, retain_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[dict[str, float]] = []

    class Tracker(TrainerCallback):
        def on_log(self, args: object, state: object, control: object, logs: dict | None = None, **_: object) -> None:
            logged.append(dict(logs or {}))

    from transformers.integrations import integration_utils

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "tensorboard", Tracker)
    monkeypatch.setattr("secura.experiments.run.packages.find_spec", lambda name: object())
    _run(_config(llama_folder, rows_file, retain_file, tmp_path / "out", "training.report_to=[tensorboard]"))
    assert sum("loss" in each for each in logged) == 6
    looks = [each for each in logged if "eval_loss" in each]
    assert len(looks) == 3
    assert all("eval_knowledge_kept" in each for each in looks) or all("eval_knowledge_kept" not in e for e in looks)


def test_tokens_of_a_step_set_how_many_forward_passes_it_has(
    llama_folder: Path, rows_file: Path, retain_file: Path, tmp_path: Path
) -> None:
    config = _config(llama_folder, rows_file, retain_file, tmp_path / "out", "training.tokens_per_step=60")
    prepared = prepare_run(config)
    lengths = [len(example.tokens) for example in prepared.task.examples]
    a_pass = 2 * sum(lengths) / len(lengths)
    assert prepared.config.training.gradient_accumulation == prepared.task.gradient_accumulation == round(60 / a_pass)
    (note,) = [note for note in prepared.notes if "forward pass" in note]
    assert f"so a step has {round(60 / a_pass)} of them" in note


@pytest.mark.parametrize("setting", ["training.packing=true", "training.padding_free=true"])
def test_rows_that_follow_one_another_are_learned(
    setting: str, llama_folder: Path, rows_file: Path, retain_file: Path, tmp_path: Path
) -> None:
    pytest.importorskip("trl")
    config = _config(llama_folder, rows_file, retain_file, tmp_path / "out", setting)
    prepared, result = _run(config)
    assert result.saved.is_dir()
    assert result.new_task_loss.before is not None
    assert result.new_task_loss.after is not None
    assert result.new_task_loss.after < result.new_task_loss.before
    assert prepared.task.packed_tokens == (64 if "packing" in setting else None)


def test_an_attention_implementation_reaches_the_model(rows_file: Path, retain_file: Path, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    config = _config(folder, rows_file, retain_file, tmp_path / "out", "model.attn_implementation=eager")
    assert prepare_run(config).model.get_base_model().config._attn_implementation == "eager"  # type: ignore[union-attr]


def test_an_optimizer_is_the_one_that_is_named(
    llama_folder: Path, rows_file: Path, retain_file: Path, tmp_path: Path
) -> None:
    seen: list[str] = []

    class Look(TrainerCallback):
        def on_train_begin(self, args: object, state: object, control: object, **given: object) -> None:
            seen.append(type(getattr(given["optimizer"], "optimizer", given["optimizer"])).__name__)

    _run(_config(llama_folder, rows_file, retain_file, tmp_path / "out", "training.optimizer=adafactor"), Look())
    assert seen == ["Adafactor"]
