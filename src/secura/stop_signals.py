"""Signals that ask a process to end: SIGTERM and SIGHUP do what Ctrl-C does, whatever it does at that moment."""

import signal
from types import FrameType
from typing import Any

_ASKING = ("SIGTERM", "SIGHUP")  # Windows has no SIGHUP
_received: list[int] = []


def treat_like_ctrl_c() -> None:
    """Let both signals do what Ctrl-C does; one that is ignored, as under nohup, stays ignored."""
    _received.clear()
    for number in (getattr(signal, name) for name in _ASKING if hasattr(signal, name)):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _like_ctrl_c)


def _like_ctrl_c(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    then: Any = signal.getsignal(signal.SIGINT)
    if not callable(then):  # Ctrl-C is ignored, or left to the system
        raise KeyboardInterrupt
    then(signal.SIGINT, frame)


def what_stopped() -> str:
    """What a process was stopped by, as a user calls it."""
    return signal.Signals(_received[0]).name if _received else "Ctrl-C"


def exit_code_of_stop(otherwise: int) -> int:
    """The exit code of a process that was stopped: 128 and the signal's number, as of a shell."""
    return 128 + _received[0] if _received else otherwise
