import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from secura.file_names import NAME_BYTES, file_name

TEXTS = st.text() | st.sampled_from(["..", "../../x.jsonl", "/etc/passwd", "-rf", "a" * 240, "\udcff", "ä" * 200, "."])


@given(TEXTS)
def test_a_file_name_stays_in_its_folder_and_fits(text: str) -> None:
    name = file_name(text)
    assert Path(os.path.normpath(Path("/out") / name)).parent == Path("/out")
    assert name == Path(name).name
    assert 1 <= len(name.encode()) <= NAME_BYTES
    assert name[0] not in ".-"


@given(TEXTS)
def test_a_file_name_is_its_own_file_name(text: str) -> None:
    assert file_name(file_name(text)) == file_name(text)


def test_plain_names_stay_and_long_ones_are_told_apart() -> None:
    assert file_name("own_things-2.v1") == "own_things-2.v1"
    assert file_name("a" * 240) != file_name("a" * 241)
