"""What a studio finds in its folder, and that no name leads out of it."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secura.experiments.settings.layers import config_as_yaml, load_config
from secura.studio.entries import entry_called, find_entries, folder_called, pages_about


def begun(folder: Path, text: str | None = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config_as_yaml(load_config()) if text is None else text)
    return folder


def page(folder: Path, name: str, title: str, **stored: str) -> None:
    folder.mkdir(parents=True)
    (folder / f"{name}.html").write_text(f"<html><head><title>{title}</title></head></html>")
    (folder / f"{name}.json").write_text(json.dumps(stored))


def test_runs_sequences_and_pages_are_found_and_what_is_hidden_or_linked_is_not(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    begun(root / "one")
    begun(root / "grid" / "a" / "seed-0")
    begun(root / "several", "tasks: [younger, own_things]")
    begun(root / ".studio" / "hidden")
    begun(root / "one" / "checkpoint-3")
    page(root / "forget-one", "forget", "Nothing &amp; nothing.")
    begun(tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", root / "linked")
    found = {entry.name: entry.kind for entry in find_entries(root)}
    assert found == {"one": "run", "grid/a/seed-0": "run", "several": "sequence", "forget-one": "forget"}
    entry = entry_called(root, "forget-one")
    assert entry is not None
    assert entry.headline == "Nothing & nothing."
    assert entry.is_done


def test_the_newest_comes_first(tmp_path: Path) -> None:
    for number, name in enumerate(["b", "c", "a"]):
        os.utime(begun(tmp_path / name) / "config.yaml", (number, number))
    assert [entry.name for entry in find_entries(tmp_path)] == ["a", "c", "b"]


def test_a_page_is_shown_with_the_run_that_it_tells_of(tmp_path: Path) -> None:
    run, other = begun(tmp_path / "one"), begun(tmp_path / "two")
    page(tmp_path / "forget-one", "forget", "", tuned=str(run))
    page(tmp_path / "dial-one", "dial", "", tuned=str(run / "adapter"))
    page(tmp_path / "dial-two", "dial", "", tuned=str(other))
    (tmp_path / "dial-two" / "dial.json").write_text("{damaged")
    entries = find_entries(tmp_path)
    assert {entry.name for entry in pages_about(entries, run)} == {"forget-one", "dial-one"}
    assert pages_about(entries, other) == []


def test_damaged_settings_leave_a_run_that_can_be_shown(tmp_path: Path) -> None:
    begun(tmp_path / "one", "{")
    (entry,) = find_entries(tmp_path)
    assert (entry.kind, entry.settings, entry.headline) == ("run", {}, "")
    (entry.folder / "retention.json").write_text("{}")
    assert entry.headline.startswith("This run cannot be read")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/../../x", "/etc", "a//../..", ".studio/x", "a/.git", "a\\b", "a\0"]
)
def test_a_name_that_leads_elsewhere_names_nothing(tmp_path: Path, name: str) -> None:
    assert folder_called(tmp_path, name) is None
    assert entry_called(tmp_path, name) is None


def test_a_link_that_leads_elsewhere_names_nothing(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    root.mkdir()
    begun(tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", root / "linked")
    assert entry_called(root, "linked") is None


@given(st.text(st.sampled_from("./\\ab~:\0"), max_size=12))
def test_whatever_a_name_is_its_folder_lies_below(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    root = tmp_path_factory.getbasetemp().resolve()
    folder = folder_called(root, name)
    assert folder is None or root in folder.resolve().parents
