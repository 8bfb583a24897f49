"""What rows and names hold is shown, and does nothing."""

import json

from secura.visible import on_one_line, visible, visible_json


def test_what_would_act_on_a_terminal_is_written_out() -> None:
    assert visible("\x1b[2Jcleared\x07") == "\\x1b[2Jcleared\\x07"
    assert visible("\u202edesrever") == "\\u202edesrever"
    assert visible("a b\tc\nd é 日本 😀") == "a b\tc\nd é 日本 😀"


def test_a_text_is_cut_at_either_end_and_put_on_one_line() -> None:
    assert on_one_line("a  b\nc", 10) == "a b c"
    assert on_one_line("0123456789x", 5) == "0123…"
    assert on_one_line("0123456789x", 5, from_end=True) == "…789x"


def test_json_means_the_same_after_it_was_made_visible() -> None:
    row = {"answer": "\x1b[2J\x9b31m\x7f \u202e \U000e0041 \ud800 é 日本 😀"}
    shown = visible_json(json.dumps(row, ensure_ascii=False) + "\n")
    assert json.loads(shown) == row
    assert "\\u009b31m" in shown
    assert "é 日本 😀" in shown
    assert shown == visible(shown)
