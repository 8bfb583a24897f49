import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from secura.cli.app import run
from secura.cli.exit_codes import USAGE
from secura.errors import ConfigError
from secura.one_writer import holds_nothing, is_being_written, one_writer, one_writer_of


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


def test_a_folder_that_is_replaced_has_one_writer_too_whose_lock_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "out"
    with one_writer_of(folder):
        with pytest.raises(ConfigError, match="another process is writing into"), one_writer_of(folder):
            pass
        folder.mkdir()
        folder.rename(tmp_path / "old")
        folder.mkdir()
    assert list((tmp_path / "deep").iterdir()) == [folder]
    with one_writer_of(folder):
        pass
    with one_writer_of(tmp_path / "new" / "out"):
        pass
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("folder", [".", "..", "/", "../{here}"])
def test_where_a_command_runs_is_not_replaced(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with (
        pytest.raises(ConfigError, match="is where this command runs"),
        one_writer_of(Path(folder.format(here=tmp_path.name))),
    ):
        pass


@pytest.mark.parametrize(
    ("held", "command"),
    [
        (one_writer_of, "export RUN --to lora --out OUT"),
        (one_writer_of, "anchors --texts 4 --out OUT"),
        (one_writer_of, "dial bundled RUN --tasks sums --at 0.5 --write OUT"),
        (one_writer, "eval --tasks ages --out OUT"),
        (one_writer, "forget bundled RUN --out OUT"),
        (one_writer, "report RUN --out OUT/page.html"),
    ],
)
def test_a_command_whose_folder_another_writes_is_refused_before_a_model_is_loaded(
    held: Callable[[Path], AbstractContextManager[None]],
    command: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "retention.json").touch()
    with held(out):
        assert run(command.replace("OUT", str(out)).replace("RUN", str(tmp_path / "run")).split()) == USAGE
    assert "another process is writing into" in capsys.readouterr().err


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
