import json
from pathlib import Path
from typing import Any

import pytest
from peft_results import peft_result

from secura.errors import DataError
from secura.experiments.comparison.query.peft_import import import_results
from secura.experiments.comparison.query.tables import Tables
from secura.experiments.comparison.runs.record_files import read_records


def _file(folder: Path, name: str, result: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(result))
    return path


def test_a_result_of_peft_becomes_a_record_beside_ours(tmp_path: Path) -> None:
    source = _file(tmp_path / "results", "lora--tiny-rank32", peft_result("lora/tiny-rank32"))
    imported = import_results(source, tmp_path / "out")
    (record,) = read_records(tmp_path / "out")
    assert imported.stored == [tmp_path / "out" / "PEFT" / "results" / "peft-lora--tiny-rank32.json"]
    assert (record.source, record.grid, record.label, record.task) == ("peft", "PEFT", "lora/tiny-rank32", "MetaMathQA")
    assert (record.model, record.seed, record.learning_rate) == ("meta/tiny", 0, 1e-4)
    assert (record.accuracy, record.forgetting_nats, record.train_loss) == (0.48, 0.07, 0.6)
    assert (record.cost.peak_memory_mb, record.cost.adapter_bytes) == (22273.851392, 36715216)
    assert (record.cost.training_seconds, record.total_seconds) == (1796.2, 1993.5)
    assert record.adapter is not None
    assert record.adapter["peft_type"] == "LORA"
    sql = "select label, gain_after, steps, peak_memory_mb from runs where source = 'peft'"
    assert Tables(tmp_path / "out").query(sql).rows == [("lora/tiny-rank32", 0.48, 5000, 22273.851392)]


def test_files_from_before_peft_renamed_its_memory_fields_and_measured_forgetting_are_read(tmp_path: Path) -> None:
    result = peft_result("full-finetuning/tiny", old=True)
    result["run_info"]["peft_config"] = None
    import_results(_file(tmp_path / "results", "full", result), tmp_path / "out")
    (record,) = read_records(tmp_path / "out")
    assert (record.cost.peak_memory_mb, record.forgetting_nats, record.adapter) == (22273.851392, None, None)


def test_a_folder_is_imported_whole_without_earlier_runs_of_the_same_experiment(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    for name in ("lora--a", "lora--b", "lora--a--2025-06-17T13-30-58+00-00"):
        _file(folder, name, peft_result(name[:7].replace("--", "/")))
    imported = import_results(folder, tmp_path / "out")
    assert list(imported.skipped) == ["lora--a--2025-06-17T13-30-58+00-00.json"]
    assert [record.label for record in read_records(tmp_path / "out")] == ["lora/a", "lora/b"]


def test_nothing_is_stored_where_one_file_is_of_another_layout(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    _file(folder, "good", peft_result("lora/a"))
    broken = peft_result("lora/b")
    del broken["train_info"]["metrics"][-1]["test accuracy"]
    _file(folder, "no-accuracy", broken)
    with pytest.raises(DataError, match=r"no-accuracy\.json is not a result .* it has no 'test accuracy'"):
        import_results(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_not_there_or_is_no_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        import_results(tmp_path / "none", tmp_path / "out")
    with pytest.raises(DataError, match=r"holds no \.json file"):
        import_results(tmp_path, tmp_path / "out")
