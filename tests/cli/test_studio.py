"""`secura studio`: where it listens, what it says, and how it ends."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from secura.cli import studio as command
from secura.cli.app import run
from secura.cli.exit_codes import DONE, USAGE
from secura.errors import ConfigError
from secura.studio import serve
from secura.studio.serve import Opened, open_studio


def test_it_listens_on_this_machine_alone_and_says_where(tmp_path: Path) -> None:
    opened = open_studio(tmp_path, host="127.0.0.1", port=0)
    with opened.bound:
        host, port = opened.bound.getsockname()
        assert host == "127.0.0.1"
        assert re.fullmatch(rf"http://127\.0\.0\.1:{port}/\?token=[\w-]{{43}}", opened.address)


def test_a_usual_port_that_is_taken_gives_way_and_one_that_was_asked_for_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        monkeypatch.setattr(serve, "DEFAULT_PORT", taken)
        opened = open_studio(tmp_path, host="127.0.0.1", port=None)
        with opened.bound:
            assert opened.bound.getsockname()[1] != taken
        with pytest.raises(ConfigError, match=f"port {taken} cannot be listened to .*give another with --port"):
            open_studio(tmp_path, host="127.0.0.1", port=taken)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["FILE"], "is a file; name the folder of the runs"),
        (["--port", "99999"], "--port is 99999; it is 0 to 65535"),
        (["--host", "no.such.host.invalid"], "cannot be listened to"),
    ],
)
def test_what_cannot_be_served_is_wrong_usage(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert run(["studio", *(str(tmp_path / "file") if part == "FILE" else part for part in arguments)]) == USAGE
    assert says in capsys.readouterr().err


def test_without_its_packages_it_says_how_to_install_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "uvicorn" else object())
    assert run(["studio"]) == USAGE
    assert capsys.readouterr().err == (
        "secura: the studio needs uvicorn, not installed; run pip install 'secura[studio]'.\n"
    )


def test_another_interface_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Opened, "serve", lambda self: self.bound.close())
    for host, warned in (("127.0.0.1", False), ("0.0.0.0", True)):
        assert run(["studio", str(tmp_path), "--host", host, "--port", "0"]) == DONE
        shown = capsys.readouterr()
        assert ("warning: --host 0.0.0.0 lets other machines in" in shown.err) is warned
        assert shown.out.startswith("studio: http://127.0.0.1:")


@pytest.mark.ci
def test_ctrl_c_closes_it_and_a_page_that_waits_for_events_does_not_hold_it(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "secura", "studio", str(tmp_path), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    address = process.stdout.readline().split()[-1]
    home = address.partition("?")[0]
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(home)
    with urllib.request.urlopen(address) as answer:
        cookie = answer.headers["Set-Cookie"].partition(";")[0]
    events = urllib.request.urlopen(urllib.request.Request(home + "events", headers={"Cookie": cookie}))
    assert events.readline() == b"retry: 2000\n"
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == DONE, errors
    assert said.splitlines()[-1] == "closed"
    assert "token" not in errors
