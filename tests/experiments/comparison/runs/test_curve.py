"""A run measured on its way and with its change scaled back."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from secura.errors import ConfigError
from secura.experiments.comparison.grid.config import CurveConfig, load_grid
from secura.experiments.comparison.grid.expand import runs_of_grid
from secura.experiments.comparison.runs.comparison_run import ComparisonRun, read_declaration, write_declaration
from secura.experiments.comparison.runs.curve import CURVE_FILE, MeasureCurve
from secura.experiments.comparison.runs.record_files import read_record, write_record
from secura.experiments.comparison.runs.train_and_measure import train_and_measure
from secura.experiments.run.prepare import prepare_run
from secura.experiments.settings.layers import load_config

pytestmark = pytest.mark.ci

GRID = """
name: curve
base: {training: {steps: 4, batch_size: 4, learning_rate: RATE}, data: {test_rows: 4}, retention: {path: none}}
methods: [METHOD]
tasks: [ask_in_ulvish]
curve: {texts: [homes, ages], steps: [2], dial: [0.5, 0], text_rows: 4, questions: {trades: 5, sums: 5}}
"""


def grid_run(folder: Path, method: str, rate: str) -> ComparisonRun:
    folder.mkdir(exist_ok=True)
    (folder / "grid.yaml").write_text(GRID.replace("METHOD", method).replace("RATE", rate))
    (declared,) = runs_of_grid(load_grid(folder / "grid.yaml"))
    return ComparisonRun(declared=declared, folder=folder / "out")


@pytest.mark.parametrize(("method", "rate"), [("lora", "1.0e-2"), ("full", "1.0e-4")])
def test_the_curve_goes_from_the_base_to_the_end_and_at_dial_0_back_to_the_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, rate: str
) -> None:
    run = grid_run(tmp_path, method, rate)
    monkeypatch.setenv("SECURA_CACHE", str(tmp_path / "cache"))
    write_declaration(run)
    assert read_declaration(run.declaration_file).declared == run.declared
    record = train_and_measure(run, Console(quiet=True))
    assert [(point.step, point.dial) for point in record.curve] == [(0, 0.0), (2, 1.0), (4, 1.0), (4, 0.5), (4, 0.0)]
    base, halfway, end, scaled_back, at_zero = record.curve
    assert at_zero == replace(base, step=4)
    assert base.right == list(range(10))  # the bundled model knows all of this
    assert halfway.right is None
    assert set(end.right or ()) <= set(range(10))
    assert base.task_nats is not None
    assert end.task_nats < scaled_back.task_nats < base.task_nats  # type: ignore[operator]
    assert halfway.task_nats != end.task_nats
    assert set(end.text_nats) == {"homes", "ages"}
    assert read_record(write_record(tmp_path, record)).curve == record.curve
    (kept,) = (tmp_path / "cache" / "curves").glob("*.jsonl")  # for the other runs of the grid
    assert kept.read_text() == (run.run_folder / CURVE_FILE).read_text().splitlines(keepends=True)[0]


def test_what_was_measured_of_the_base_is_not_measured_again_by_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECURA_CACHE", str(tmp_path / "cache"))
    first = train_and_measure(grid_run(tmp_path / "first", "lora", "1.0e-2"), Console(quiet=True))
    with monkeypatch.context() as patch:
        measured: list[int] = []
        real = MeasureCurve._measure
        patch.setattr(MeasureCurve, "_measure", lambda self, model, step, *more, **named: (
            measured.append(step), real(self, model, step, *more, **named)
        ))  # fmt: skip
        second = train_and_measure(grid_run(tmp_path / "second", "lora", "2.0e-2"), Console(quiet=True))
    assert measured == [2, 4, 4, 4]
    assert second.curve[0] == first.curve[0]
    assert second.curve[1:] != first.curve[1:]


def test_a_damaged_measurement_of_the_base_in_the_cache_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECURA_CACHE", str(tmp_path / "cache"))
    first = train_and_measure(grid_run(tmp_path / "first", "lora", "1.0e-2"), Console(quiet=True))
    (kept,) = (tmp_path / "cache" / "curves").glob("*.jsonl")
    whole = kept.read_text()
    kept.write_text(whole[:40])
    second = train_and_measure(grid_run(tmp_path / "second", "lora", "1.0e-2"), Console(quiet=True))
    assert second.curve == first.curve
    assert kept.read_text() == whole


def test_points_that_were_measured_are_not_measured_again_and_a_damaged_file_is_refused(tmp_path: Path) -> None:
    settings = ["training.steps=2", "training.batch_size=4", "data.test_rows=4", "retention.path=none"]
    run = prepare_run(load_config(None, settings, {"method.name": "lora", "out": str(tmp_path)}))
    wanted = CurveConfig(texts=["homes"], text_rows=2)
    MeasureCurve(run, wanted).measure_end()
    written = (tmp_path / CURVE_FILE).read_text()
    with torch.no_grad():
        for weight in run.model.parameters():
            weight.zero_()  # would be seen if it were measured
    MeasureCurve(run, wanted).measure_end()
    assert (tmp_path / CURVE_FILE).read_text() == written
    (tmp_path / CURVE_FILE).write_text(written[:-20])
    with pytest.raises(ConfigError, match=r"curve\.jsonl is damaged"):
        MeasureCurve(run, wanted)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("curve: {texts: [nothing_such]}", "is no task"),
        ("curve: {texts: [homes], dial: [-0.5]}", "dial"),
        ("curve: {texts: []}", "texts"),
        ("curve: {texts: [homes], questions: {nothing_such: 4}}", "is no task"),
        ("curve: {texts: [homes], questions: {ages: 0}}", "questions"),
    ],
)
def test_a_curve_that_cannot_be_measured_is_refused(tmp_path: Path, written: str, said: str) -> None:
    text = GRID.replace("METHOD", "lora").replace("RATE", "1.0e-2").rpartition("curve:")[0] + written
    (tmp_path / "grid.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_grid(tmp_path / "grid.yaml")
