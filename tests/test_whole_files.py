import errno
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import SafetensorError

from secura.errors import SecuraError
from secura.whole_files import write_folder, write_text


def full_disk() -> Exception:
    return OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("problem", [full_disk, lambda: SafetensorError("I/O error: No space left on device")])
def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(
    problem: Callable[[], Exception], tmp_path: Path
) -> None:
    write_folder(tmp_path / "adapter", lambda path: (path / "old").touch())

    def fill(path: Path) -> None:
        (path / "half").touch()
        raise problem()

    with pytest.raises(
        SecuraError, match=r"adapter cannot be written: .*No space left on device; the old file is unchanged"
    ):
        write_folder(tmp_path / "adapter", fill)
    assert [path.name for path in tmp_path.rglob("*")] == ["adapter", "old"]


def test_ctrl_c_leaves_nothing_partial(tmp_path: Path) -> None:
    def fill(path: Path) -> None:
        (path / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path / "adapter", fill)
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SecuraError, match=r"log\.json cannot be written: "):
        write_text(tmp_path / "file" / "log.json", "")
