import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from engine_jobs import becomes_true
from in_this_process import InThisProcess

from secura.errors import ConfigError
from secura.experiments.comparison.grid.config import GridConfig, load_grid
from secura.experiments.comparison.runs import carry_out
from secura.experiments.comparison.runs.comparison_run import ComparisonRun
from secura.experiments.comparison.runs.record import RunRecord
from secura.experiments.comparison.runs.record_files import read_record, read_records
from secura.experiments.comparison.runs.schedule import (
    Finished,
    carry_out_all,
    declare,
    due_runs,
    runs_of_grids,
    share_results,
    under_way,
)

pytestmark = pytest.mark.ci


@pytest.fixture
def settings(llama_folder: Path, rows_file: Path, retain_file: Path) -> dict[str, Any]:
    return {
        "name": "tiny",
        "base": {"training.steps": 2, "training.batch_size": 4, "retention.path": str(retain_file)},
        "models": [{"path": str(llama_folder), "label": "llama"}],
        "methods": ["lora"],
        "tasks": [{"name": str(rows_file), "label": "sky"}],
    }


def _grid(folder: Path, settings: dict[str, Any], **changes: Any) -> GridConfig:
    values = {key: value for key, value in {**settings, **changes}.items() if value is not None}
    path = folder / f"{values['name']}.yaml"
    path.write_text(yaml.safe_dump(values))
    return load_grid(path)


def _carried_out(runs: Sequence[ComparisonRun], folder: Path, *, retry_failed: bool = True) -> list[Finished]:
    declare(runs)
    return list(carry_out_all(due_runs(runs, retry_failed=retry_failed), InThisProcess()))


def _only_record(folder: Path) -> RunRecord:
    (record,) = read_records(folder)
    return record


def test_a_run_leaves_a_record_of_what_was_asked_and_what_came_out(settings: dict[str, Any], tmp_path: Path) -> None:
    text = tmp_path / "text.jsonl"
    text.write_text('{"text": "the sky is blue"}\n{"text": "the sea is grey"}\n')
    measured = {"measure": ["spectra", "gradient_norms", "forgetting_text"], "forgetting_text": str(text)}
    runs = runs_of_grids([_grid(tmp_path, settings, **measured)], tmp_path / "out")
    (finished,) = _carried_out(runs, tmp_path / "out")
    assert (finished.state, finished.reason) == ("done", "")
    record = _only_record(tmp_path / "out")
    assert (record.name, record.grid, record.model, record.task) == (runs[0].name, "tiny", "llama", "sky")
    assert record.gain is not None
    assert record.gain.asked == 2  # a tenth of 24 rows
    assert {family: tally.asked for family, tally in record.knowledge.items()} == {"family 0": 3, "family 1": 3}
    assert record.forgetting_nats is not None
    assert abs(record.forgetting_nats) < 1.0
    assert [step for step, _ in record.gradient_norms] == [1, 2]
    assert all(norm > 0 for _, norm in record.gradient_norms)
    assert [each.layer.rsplit(".", 1)[-1] for each in record.spectra] == ["q_proj", "v_proj"] * 2
    saved = tmp_path / "out" / "tiny" / "runs" / record.name / "adapter" / "adapter_model.safetensors"
    assert record.cost.adapter_bytes == saved.stat().st_size
    assert record.cost.trainable_weights == sum(2 * 8 * 32 + 8 * (out - 32) for out in (32, 16)) * 2
    assert (record.cost.rows, record.settings["training"]["learning_rate"]) == (8, 2e-4)
    assert record.adapter is not None
    assert (record.adapter["peft_type"], record.adapter["base_model_name_or_path"]) == ("LORA", "llama")
    assert record.provenance["versions"]["peft"]
    assert list(record.provenance["decided_by"]["files"])
    assert not list(saved.parents[1].glob("checkpoint-*"))


def test_what_is_done_is_not_done_again(settings: dict[str, Any], tmp_path: Path) -> None:
    grid, out = _grid(tmp_path, settings), tmp_path / "out"
    assert len(_carried_out(runs_of_grids([grid], out), out)) == 1
    before = _only_record(out)
    assert _carried_out(runs_of_grids([grid], out), out) == []
    more = runs_of_grids([_grid(tmp_path, settings, seeds=[0, 1])], out)
    assert [finished.run.declared.seed for finished in _carried_out(more, out)] == [1]
    assert before in read_records(out)


def test_a_failure_is_kept_with_its_reason_and_tried_again(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    runs = runs_of_grids([_grid(tmp_path, settings)], out)
    real = carry_out.train_and_measure

    def broken(*_: Any) -> RunRecord:
        raise RuntimeError("a bug in\ntwo lines")

    monkeypatch.setattr(carry_out, "train_and_measure", broken)
    (failed,) = _carried_out(runs, out)
    assert (failed.state, failed.reason) == ("failed", "RuntimeError: a bug in two lines")
    assert _only_record(out).status == "failed"
    assert due_runs(runs, retry_failed=False) == []
    monkeypatch.setattr(carry_out, "train_and_measure", real)
    (retried,) = _carried_out(runs, out)
    assert retried.state == "done"
    assert _only_record(out).status == "success"
    (kept,) = (out / "tiny" / "results" / "failed").iterdir()
    assert read_record(kept).error == "RuntimeError: a bug in two lines"


def test_a_run_that_ran_out_of_memory_says_so_in_one_sentence(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carry_out, "train_and_measure", lambda *_: torch.empty(2**60, dtype=torch.uint8))
    (failed,) = _carried_out(runs_of_grids([_grid(tmp_path, settings)], tmp_path / "out"), tmp_path / "out")
    assert failed.reason.startswith("main memory ran out when ")
    assert "training.batch_size" in failed.reason
    assert _only_record(tmp_path / "out").error == failed.reason


def test_a_run_that_cannot_work_is_a_record_and_costs_the_next_one_nothing(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    overrides = [{"where": {"seed": 0}, "set": {"data.max_length": 2}}]
    grid = _grid(tmp_path, settings, seeds=[0, 1], overrides=overrides)
    first, second = _carried_out(runs_of_grids([grid], tmp_path / "out"), tmp_path / "out")
    assert first.state == "failed"
    assert "2 tokens" in first.reason
    assert second.state == "done"


def test_a_run_that_two_grids_have_is_carried_out_once(settings: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    runs = runs_of_grids([_grid(tmp_path, settings), _grid(tmp_path, settings, name="also", seeds=[0, 1])], out)
    assert [finished.run.declared.seed for finished in _carried_out(runs, out)] == [0, 1]
    assert share_results(runs) == 1
    one, other, _ = sorted(read_records(out), key=lambda record: (record.seed, record.grid))
    assert (one.grid, other.grid) == ("also", "tiny")
    assert replace(one, grid="") == replace(other, grid="")


def test_results_of_an_earlier_form_of_a_grid_are_set_aside_and_come_back(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    old = runs_of_grids([_grid(tmp_path, settings)], out)
    _carried_out(old, out)
    new = runs_of_grids([_grid(tmp_path, settings, seeds=[1])], out)
    assert declare(new) == 1
    assert read_records(out) == []
    assert declare(old) == 0
    assert [record.seed for record in read_records(out)] == [0]


def test_grids_of_one_name_and_pefts_own_are_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    grid = _grid(tmp_path, settings)
    with pytest.raises(ConfigError, match="two grids are called tiny"):
        runs_of_grids([grid, grid], tmp_path)
    with pytest.raises(ConfigError, match="cannot be called PEFT"):
        runs_of_grids([_grid(tmp_path, settings, name="PEFT")], tmp_path)


def test_a_run_is_under_way_from_when_its_log_is_there_until_it_has_ended(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    runs = runs_of_grids([_grid(tmp_path, settings, seeds=[0, 1])], tmp_path)
    runs[0].log_file.parent.mkdir(parents=True)
    runs[0].log_file.touch()
    assert under_way(runs, set()) == runs[:1]
    assert under_way(runs, {runs[0].name}) == []


def test_the_longest_runs_are_due_first(settings: dict[str, Any], tmp_path: Path) -> None:
    overrides = [{"where": {"seed": 1}, "set": {"training.steps": 9}}]
    runs = runs_of_grids([_grid(tmp_path, settings, seeds=[0, 1, 2], overrides=overrides)], tmp_path)
    assert [run.declared.seed for run in due_runs(runs, retry_failed=True)] == [1, 0, 2]


def test_a_sequence_leaves_every_score_in_its_record(settings: dict[str, Any], rows_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "sea.jsonl"
    other.write_text(rows_file.read_text().replace("sky", "sea"))
    base = {**settings["base"], "tasks": [str(rows_file), str(other)], "data.test_rows": 4}
    methods = [{"name": "lora", "strategy": "replay", "label": "ER"}]
    changes = {"kind": "sequence", "tasks": None, "methods": methods, "measure": ["gradient_norms", "spectra"]}
    runs = runs_of_grids([_grid(tmp_path, settings, base=base, **changes)], tmp_path / "out")
    (finished,) = _carried_out(runs, tmp_path / "out")
    assert finished.reason == ""
    record = _only_record(tmp_path / "out")
    assert record.sequence is not None
    assert [len(row) for row in record.sequence.scores] == [2, 2, 2]
    assert all(known is not None for known in record.sequence.knowledge)
    assert sum(tally.asked for tally in record.knowledge.values()) == 6
    assert [step for step, _ in record.gradient_norms] == [1, 2, 3, 4]
    assert len(record.spectra) == 4
    assert record.cost.adapter_bytes


@pytest.mark.slow
def test_a_killed_run_leaves_no_record_and_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        "name: killed\nmethods: [lora]\ntasks: [own_things]\n"
        "base: {training.steps: 60, training.save_every: 5, retention.per_family: 2, data.test_rows: 8}\n"
    )
    results = []
    for kill in (False, True):
        out = tmp_path / str(kill)
        runs = runs_of_grids([load_grid(grid)], out)
        declare(runs)
        (run,) = runs
        command = [sys.executable, "-m", "secura.experiments.comparison.runs.carry_out", str(run.declaration_file)]
        if kill:
            process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
            assert becomes_true(lambda run=run: list(run.run_folder.glob("checkpoint-*/seal.json")) != [], 120)
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert run.state == "left"
        assert subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False).returncode == 0
        record = read_record(run.record_file)
        assert record.provenance["resumed"] == kill
        weights = (run.run_folder / "adapter" / "adapter_model.safetensors").read_bytes()
        results.append((weights, json.dumps([str(record.gain), str(record.knowledge), record.train_loss])))
    assert results[0] == results[1]


@pytest.mark.slow
def test_a_run_stopped_by_ctrl_c_saves_and_leaves_no_record(tmp_path: Path) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        "name: stopped\nmethods: [lora]\ntasks: [own_things]\n"
        "base: {training.steps: 2000, retention.per_family: 2, data.test_rows: 8}\n"
    )
    (run,) = runs_of_grids([load_grid(grid)], tmp_path)
    declare([run])
    command = [sys.executable, "-m", "secura.experiments.comparison.runs.carry_out", str(run.declaration_file)]
    process = subprocess.Popen(command)
    log = run.run_folder / "log.jsonl"
    assert becomes_true(lambda: log.is_file() and log.read_text().count("\n") > 3, 120)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == carry_out.STOPPED
    assert run.state == "left"
    assert list(run.run_folder.glob("checkpoint-*"))
