"""What rows and names hold is shown, and does nothing."""

from secura.cli.visible import on_one_line, visible


def test_what_would_act_on_a_terminal_is_written_out() -> None:
    assert visible("\x1b[2Jcleared\x07") == "\\x1b[2Jcleared\\x07"
    assert visible("\u202edesrever") == "\\u202edesrever"
    assert visible("a b\tc\nd é 日本 😀") == "a b\tc\nd é 日本 😀"


def test_a_text_is_cut_at_either_end_and_put_on_one_line() -> None:
    assert on_one_line("a  b\nc", 10) == "a b c"
    assert on_one_line("0123456789x", 5) == "0123…"
    assert on_one_line("0123456789x", 5, from_end=True) == "…789x"
