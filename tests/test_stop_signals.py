import os
import signal
from collections.abc import Iterator

import pytest

from secura.stop_signals import exit_code_of_stop, treat_like_ctrl_c, what_stopped

NUMBERS = [signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (*NUMBERS, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    treat_like_ctrl_c()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_does_what_ctrl_c_does_at_that_moment(number: signal.Signals, code: int) -> None:
    signal.signal(number, signal.SIG_DFL)  # whoever started the tests may have had it ignored
    treat_like_ctrl_c()
    assert (what_stopped(), exit_code_of_stop(1)) == ("Ctrl-C", 1)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)
    saved = []
    signal.signal(signal.SIGINT, lambda *_: saved.append("saved"))
    os.kill(os.getpid(), number)
    assert saved == ["saved"]
    assert (what_stopped(), exit_code_of_stop(1)) == (number.name, code)


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    treat_like_ctrl_c()
    os.kill(os.getpid(), signal.SIGHUP)
    assert what_stopped() == "Ctrl-C"
