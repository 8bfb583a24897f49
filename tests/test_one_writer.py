import subprocess
import sys
import threading
from pathlib import Path

import pytest

from secura.errors import ConfigError
from secura.one_writer import holds_nothing, is_being_written, one_writer


def test_a_second_writer_is_refused_and_one_that_comes_after_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "out"
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from secura.one_writer import one_writer\n"
            "with one_writer(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()",
            str(folder),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    with pytest.raises(ConfigError, match="another process is writing into"), one_writer(folder):
        pass
    holder.kill()  # however the holder ends, its lock ends with it
    holder.communicate()
    assert holds_nothing(folder)
    with one_writer(folder):
        (folder / "file").touch()
    assert not holds_nothing(folder)


def test_a_new_folder_that_is_left_empty_is_gone_again(tmp_path: Path) -> None:
    with one_writer(tmp_path / "deep" / "out"):
        assert (tmp_path / "deep" / "out").is_dir()
    assert not (tmp_path / "deep").exists()


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written to: "), one_writer(tmp_path / "file" / "out"):
        pass


def test_whether_a_folder_is_held_can_be_asked_and_asking_keeps_no_writer_out(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert not is_being_written(folder)
    assert not folder.exists()
    with one_writer(folder):
        assert is_being_written(folder)
        (folder / "file").touch()
    assert not is_being_written(folder)
    asked = threading.Event()

    def ask() -> None:
        while not asked.is_set():
            is_being_written(folder)

    asker = threading.Thread(target=ask)
    asker.start()
    for _ in range(50):
        with one_writer(folder):
            pass
    asked.set()
    asker.join()
