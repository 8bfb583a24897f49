"""Whatever is printed is plain text: neither rich's markup nor a terminal's escapes in it do anything."""

import io

import pytest
from rich.live import Live
from rich.table import Table
from rich.text import Text

from secura.plain_console import PlainConsole

_HOSTILE = "[bold]a[/x]\x1b]0;owned\x07\x1b[2J\x9b31m :smile: \u202eback"
_SHOWN = "[bold]a[/x]\\x1b]0;owned\\x07\\x1b[2J\\x9b31m :smile: \\u202eback"


def _printed(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("kind", ["string", "text", "out", "soft_wrap"])
def test_a_line_is_shown_as_it_is(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    console = PlainConsole(width=200)
    if kind == "out":
        console.out(_HOSTILE)
    else:
        console.print(Text(_HOSTILE) if kind == "text" else _HOSTILE, soft_wrap=kind == "soft_wrap")
    assert _printed(capsys) == (_SHOWN if kind != "text" else _SHOWN.replace("\\x07", ""))  # Text drops a bell


def test_a_table_shows_its_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(title=_HOSTILE, caption=_HOSTILE, box=None)
    table.add_column(_HOSTILE)
    table.add_row(_HOSTILE)
    PlainConsole(width=200).print(table)
    shown = _printed(capsys)
    assert "\x1b" not in shown
    assert "\x9b" not in shown
    assert "\u202e" not in shown
    assert shown.count("[bold]a[/x]\\x1b]0;owned") == 4
    assert shown.count(":smile:") == 4


def test_what_is_drawn_again_and_again_keeps_its_own_controls_alone() -> None:
    screen = io.StringIO()
    console = PlainConsole(width=200)
    console.file, console._force_terminal = screen, True
    with Live(Text(_HOSTILE), console=console, refresh_per_second=1):
        console.print(_HOSTILE)
    assert screen.getvalue().count("\\x1b]0;owned") >= 2
    assert "\x1b]0;" not in screen.getvalue()
    assert "\x1b[2J" not in screen.getvalue()
    assert "\x1b[?25l" in screen.getvalue()  # rich's own: the cursor is hidden while it draws
