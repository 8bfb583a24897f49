import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from secura.errors import DataError
from secura.evaluation.spectra import Spectrum
from secura.evaluation.tally import Tally
from secura.experiments.comparison.runs.record import Cost, RunRecord, SequenceRecord
from secura.experiments.comparison.runs.record_files import (
    FAILED_FOLDER,
    read_record,
    read_records,
    record_path,
    write_record,
)

RECORD = RunRecord(
    name="lora-rivers-0-0123456789",
    grid="small",
    label="LoRA",
    model="bundled",
    task="rivers",
    seed=3,
    learning_rate=7e-4,
    status="success",
    created_at="2026-11-24T10:00:00+00:00",
    total_seconds=21.5,
    gain=Tally.of_totals(asked=50, before=2, after=41),
    gain_nats=(3.25, None),
    knowledge={"birds": Tally.of_totals(asked=20, before=18, after=15)},
    forgetting_nats=0.125,
    sequence=SequenceRecord(tasks=["a", "b"], scores=[[0.1, None], [0.9, 0.2], [0.5, 0.8]], knowledge=[1.0, None, 0.5]),
    gradient_norms=[(1, 0.5), (2, 0.25)],
    spectra=[Spectrum(layer="h.0", before=[2.0, 1.0], after=[2.5, 1.0], norm_before=2.24, norm_after=2.69)],
    train_loss=0.75,
    cost=Cost(
        trainable_weights=100,
        total_weights=1100,
        adapter_bytes=4096,
        training_seconds=7.5,
        peak_memory_mb=512.25,
        mean_memory_mb=500.0,
        high_memory_mb=512.0,
        rows=2400,
        tokens=48000,
    ),
    adapter={"peft_type": "LORA", "r": 8},
    settings={"training": {"steps": 150, "batch_size": 16}},
    provenance={"commit": "abc", "versions": {"peft": "0.21.2", "torch": "2.13.0"}, "hardware": {"machine": "x86_64"}},
)


def _as_stored(record: RunRecord) -> Any:
    return json.loads(json.dumps(asdict(record)))


@pytest.mark.parametrize("record", [RECORD, replace(RECORD, status="failed", error="no", cost=Cost(), gain=None)])
def test_a_record_comes_back_as_it_was_written(record: RunRecord, tmp_path: Path) -> None:
    path = write_record(tmp_path, record)
    assert path == record_path(tmp_path, "small", RECORD.name)
    assert _as_stored(read_record(path)) == _as_stored(record)


def test_a_record_from_before_losses_were_counted_still_opens(tmp_path: Path) -> None:
    path = write_record(tmp_path, RECORD)
    stored = json.loads(path.read_text())
    for tally in (stored["secura"]["gain"], *stored["secura"]["knowledge"].values()):
        del tally["lost"]
    path.write_text(json.dumps(stored))
    found = read_record(path)
    assert found.knowledge["birds"] == Tally(asked=20, before=18, after=15, lost=3)
    assert found.gain == Tally(asked=50, before=2, after=41, lost=0)


def test_a_record_keeps_how_many_answers_were_lost(tmp_path: Path) -> None:
    knowledge = {"birds": Tally(asked=20, before=10, after=15, lost=4)}
    path = write_record(tmp_path, replace(RECORD, knowledge=knowledge))
    assert read_record(path).knowledge == knowledge


def test_records_of_several_grids_are_read_together_and_old_failures_are_not(tmp_path: Path) -> None:
    for grid in ("second", "first"):
        write_record(tmp_path, replace(RECORD, grid=grid))
    old = record_path(tmp_path, "first", "x").parent / FAILED_FOLDER / "LoRA-old.json"
    old.parent.mkdir()
    old.write_text("{}")
    assert [record.grid for record in read_records(tmp_path)] == ["first", "second"]


def test_pefts_page_finds_each_field_that_it_reads_and_of_the_type_that_it_converts_to(tmp_path: Path) -> None:
    row = json.loads(write_record(tmp_path, RECORD).read_text())
    run, train, meta = row["run_info"], row["train_info"], row["meta_info"]
    assert run["peft_config"]["peft_type"] == "LORA"
    assert run["train_config"]["model_id"] == "bundled"
    whole = [train[f"accelerator_memory_{which}"] for which in ("reserved_avg", "max", "reserved_99th")]
    last = train["metrics"][-1]
    whole += [train["file_size"], last["train samples"], last["train total tokens"]]
    assert all(type(number) is int for number in whole)
    numbers = [run["total_time"], train["train_time"], last["test accuracy"], last["train loss"], last["forgetting"]]
    assert all(type(number) is float for number in numbers)
    packages = ("peft", "transformers", "datasets", "torch", "bitsandbytes")
    assert {f"{package}-version" for package in packages} <= set(meta["package_info"])
    assert last["test accuracy"] == 41 / 50
    assert train["accelerator_memory_max"] == 512_250_000
    assert (run["created_at"], run["peft_branch"]) == (RECORD.created_at, "main")
    assert run["experiment_name"].split("/") == ["LoRA", "rivers-seed3"]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda row: row.pop("train_info"), "it has no 'train_info'"),
        (lambda row: row["train_info"].pop("status"), "it has no 'status'"),
        (lambda row: row["train_info"].update(status="done"), "status is 'done'"),
        (lambda row: row["run_info"]["train_config"].update(seed="x"), "seed is 'x'"),
    ],
)
def test_a_file_of_another_layout_is_refused_by_the_field_that_is_wrong(damage: Any, says: str, tmp_path: Path) -> None:
    path = write_record(tmp_path, RECORD)
    row = json.loads(path.read_text())
    damage(row)
    path.write_text(json.dumps(row))
    with pytest.raises(DataError, match=says):
        read_record(path)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read_records(tmp_path / "none")
