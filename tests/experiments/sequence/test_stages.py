import os
from pathlib import Path

import pytest

from secura.experiments.sequence.stages import stage_folder, task_folder, undone_folder

NAMES = ["../../../rows.jsonl", "..", "/etc/passwd", "a" * 240, "own_things", "org/name:config:split"]


@pytest.mark.parametrize("task", NAMES)
def test_folders_named_for_a_task_lie_in_the_folder_of_the_sequence(task: str, tmp_path: Path) -> None:
    for folder_of in (stage_folder, task_folder, undone_folder):
        folder = folder_of(tmp_path, 3, task)
        assert Path(os.path.normpath(folder)).parent == tmp_path
        folder.with_name(f"{folder.name}.partial").mkdir()


def test_names_of_stages_are_what_they_were(tmp_path: Path) -> None:
    assert stage_folder(tmp_path, 3, "own_things").name == "after-03-own_things"
    assert stage_folder(tmp_path, 3, "data/rows.jsonl").name == "after-03-rows"
