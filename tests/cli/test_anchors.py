from pathlib import Path

import pytest

from secura.cli.app import DONE, USAGE, run


def test_the_bundled_model_writes_a_bank(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["anchors", "bundled", "--texts", "20", "--tokens", "16", "--out", str(tmp_path / "bank")]
    assert run(arguments) == DONE
    shown = capsys.readouterr().out
    assert "20 texts of" in shown
    assert "(20 plain), of which training leaves 4 aside" in shown
    assert run(arguments) == DONE  # it is there already
    assert run([*arguments, "--seed", "1"]) == USAGE
    assert "holds a bank made with other settings; name another folder with --out" in capsys.readouterr().err
