"""A browser without a window that a test drives as a person does: keys, clicks, a phone's screen, and what is on it.

Chromium's own protocol, spoken through a pipe: https://chromedevtools.github.io/devtools-protocol/
"""

import base64
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from browser import BROWSER

_ENTER = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
_KEYS: dict[str, dict[str, Any]] = {
    "Enter": _ENTER,
    "Tab": {"key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9},
    "Escape": {"key": "Escape", "code": "Escape", "windowsVirtualKeyCode": 27},
}


class Browser:
    """One page of a browser."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._last, self._held = 0, b""
        self.said: list[str] = []
        """What scripts said on the console, and what the browser refused them."""
        target = self._call("Target.createTarget", {"url": "about:blank"}, session=None)["targetId"]
        attached = self._call("Target.attachToTarget", {"targetId": target, "flatten": True}, session=None)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def open(self, address: str) -> None:
        """Go to an address."""
        self._call("Page.navigate", {"url": address})

    def value_of(self, script: str) -> Any:
        """What an expression comes to in the page; promises are waited for."""
        done = self._call("Runtime.evaluate", {"expression": script, "returnByValue": True, "awaitPromise": True})
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait_for(self, script: str, seconds: float = 60) -> Any:
        """The value of an expression, as soon as it is true."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                if value := self.value_of(script):
                    return value
            except (AssertionError, RuntimeError):  # the page is just changing
                pass
            time.sleep(0.1)
        shown = self.value_of("document.body.innerText")
        raise AssertionError(
            f"{script} did not become true in {seconds} s; the page shows:\n{shown}\nsaid: {self.said}"
        )

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self._call("Input.insertText", {"text": text})

    def press(self, key: str) -> None:
        """Press a key by its name."""
        self._call("Input.dispatchKeyEvent", {"type": "keyDown", **_KEYS[key]})
        self._call("Input.dispatchKeyEvent", {"type": "keyUp", **_KEYS[key]})

    def tab_to(self, selector: str, most: int = 60) -> None:
        """Press Tab until an element has the focus, as somebody without a mouse does."""
        for _ in range(most):
            if self.value_of(f"document.activeElement === document.querySelector({json.dumps(selector)})"):
                return
            self.press("Tab")
        raise AssertionError(f"{selector} cannot be reached by Tab")

    def click(self, selector: str) -> None:
        """Click where an element is."""
        script = (
            f"(e => {{ e.scrollIntoView({{block: 'center'}}); const r = e.getBoundingClientRect(); "
            f"return [r.x + r.width / 2, r.y + r.height / 2]; }})(document.querySelector({json.dumps(selector)}))"
        )
        x, y = self.value_of(script)
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1})

    def be(self, *, width: int, height: int, phone: bool = False) -> None:
        """Have a screen of so many pixels of CSS."""
        size = {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
        self._call("Emulation.setDeviceMetricsOverride", size)

    def dark(self, on: bool) -> None:
        """Prefer dark colours, or light ones."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if on else "light"}]
        self._call("Emulation.setEmulatedMedia", {"features": features})

    def picture(self, file: Path) -> None:
        """Save what is on the screen as PNG."""
        file.write_bytes(base64.b64decode(self._call("Page.captureScreenshot")["data"]))

    def _call(self, method: str, given: dict[str, Any] | None = None, session: str | None = "") -> dict[str, Any]:
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": given or {}}
        if session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._hear(answer)

    def _hear(self, event: dict[str, Any]) -> None:
        given = event.get("params", {})
        if event.get("method") == "Log.entryAdded":
            self.said.append(f"{given['entry']['level']}: {given['entry']['text']} {given['entry'].get('url', '')}")
        elif event.get("method") == "Runtime.consoleAPICalled":
            self.said.append(" ".join(str(each.get("value", each)) for each in given["args"]))
        elif event.get("method") == "Runtime.exceptionThrown":
            self.said.append(str(given["exceptionDetails"]))

    def _read(self, seconds: float = 60) -> dict[str, Any]:
        while b"\0" not in self._held:
            ready, _, _ = select.select([self._from], [], [], seconds)
            assert ready, f"the browser said nothing for {seconds} s"
            part = os.read(self._from, 1 << 20)
            assert part, "the browser has ended"
            self._held += part
        message, _, self._held = self._held.partition(b"\0")
        return json.loads(message)


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser that keeps what it must in a folder."""
    assert BROWSER is not None
    flags = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
        *("--hide-scrollbars", f"--user-data-dir={folder}", "--remote-debugging-pipe"),
    ]
    (for_browser, to_browser), (from_browser, of_browser) = os.pipe(), os.pipe()
    # The browser reads from its file 3 and writes to its file 4; the shell puts the pipes there.
    run = 'exec "$@" 3<&"$0" 4>&' + str(of_browser)
    child = subprocess.Popen(
        ["bash", "-c", run, str(for_browser), BROWSER, *flags],
        pass_fds=(for_browser, of_browser),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(for_browser)
    os.close(of_browser)
    try:
        yield Browser(to_browser, from_browser)
    finally:
        child.terminate()
        child.wait(20)
        os.close(to_browser)
        os.close(from_browser)
