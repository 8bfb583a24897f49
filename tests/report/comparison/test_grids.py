from pathlib import Path

from made_records import made_record, write_peft_results, write_records

from secura.experiments.comparison.runs.record_files import record_path, write_record
from secura.report.comparison.grids import read_comparison


def test_every_record_is_found_with_its_own_file_and_grids_of_ours_stand_apart_from_pefts(tmp_path: Path) -> None:
    records = [made_record(), made_record(grid="other", learning_rate=1e-2)]
    write_records(tmp_path, records)
    write_peft_results(tmp_path, count=2)
    # What failed before has the same file name.
    failed = tmp_path / "performance" / "results" / "failed"
    failed.mkdir()
    (failed / f"{records[0].name}.json").write_text("{}")
    found = read_comparison(tmp_path)
    assert [grid.name for grid in found.grids] == ["other", "performance"]
    assert len(found.records) == 4
    assert found.files[records[0].name] == record_path(tmp_path, "performance", records[0].name)
    assert {path.parent.parent.name for path in found.files.values()} == {"performance", "other", "PEFT"}


def test_an_older_result_of_a_cell_is_left_out_with_a_note(tmp_path: Path) -> None:
    for name, day in (("old", "01"), ("new", "02")):
        write_record(tmp_path, made_record(name=name, created_at=f"2026-01-{day}T00:00:00Z"))
    found = read_comparison(tmp_path)
    assert [record.name for record in found.records] == ["new"]
    assert found.notes == ["1 older results are left out, whose runs were repeated with other settings."]


def test_a_plan_that_cannot_be_read_is_a_note_and_no_end(tmp_path: Path) -> None:
    write_record(tmp_path, made_record())
    (tmp_path / "performance" / "cells").mkdir()
    (tmp_path / "performance" / "cells" / "broken.json").write_text("{}")
    (note,) = read_comparison(tmp_path).notes
    assert note.startswith("Which runs were planned cannot be told: ")
