"""A headless Chromium that is driven: mouse, keys, questions to the page, pictures.

It speaks the browser's own protocol over a pair of pipes, so nothing has to be installed for it.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import subprocess
import tempfile
import time
from pathlib import Path

from . import browser

KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Home": 36, "End": 35,
        "Tab": 9, "Enter": 13, " ": 32}
LIMIT = 300  # seconds for one answer, on a busy machine


class Driven:
    """One page of a browser."""

    def __init__(self, ask: int, answers: int):
        self.ask, self.answers = ask, answers
        self.last, self.buffer, self.session = 0, b"", None
        self.patience = LIMIT
        self.errors: list[str] = []
        self.hosts: list[str] = []
        self.files: list[str] = []  # what the pages fetched of this machine
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def message(self) -> dict:
        while b"\0" not in self.buffer:
            if not select.select([self.answers], [], [], self.patience)[0]:
                raise TimeoutError(f"the browser said nothing for {self.patience} s")
            piece = os.read(self.answers, 1 << 20)
            if not piece:
                raise EOFError("the browser has ended")
            self.buffer += piece
        text, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(text)

    def call(self, method: str, **params) -> dict:
        self.last += 1
        request = {"id": self.last, "method": method, "params": params}
        if self.session:
            request["sessionId"] = self.session
        os.write(self.ask, json.dumps(request).encode() + b"\0")
        while True:
            message = self.message()
            if message.get("id") == self.last:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self.note(message)

    def note(self, message: dict) -> None:
        """Errors on the console, and who is asked for what."""
        params = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif message.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])
        elif message.get("method") == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if url.startswith("file:"):
                self.files.append(url.split("?")[0].split("#")[0])
            if not url.startswith(("file:", "data:", "about:", "blob:")):
                self.hosts.append(url)

    # ---- what a reader does and sees

    def open(self, url: str, width: int = 1280, height: int = 1000, dark: bool = False,
             still: bool = False, wait: str = "document.readyState === 'complete'") -> None:
        """A page in a window of that size, in a theme, with or without reduced motion."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"}])
        self.call("Page.navigate", url="about:blank")
        self.until("location.href === 'about:blank'")  # one navigation at a time
        self.call("Page.navigate", url=url)
        self.until(f"location.href !== 'about:blank' && ({wait})")

    def js(self, expression: str):
        """The value of an expression, which may be a promise."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True,
                           awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"].get("exception", {}).get("description"))
        return result["result"].get("value")

    def until(self, expression: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not self.js(f"Boolean({expression})"):
            if time.monotonic() > end:
                raise TimeoutError(f"not within {seconds} s: {expression}; errors: {self.errors}")
            time.sleep(0.05)

    def drawn(self) -> None:
        """Until two frames have passed."""
        self.js("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")

    def press(self, key: str, times: int = 1, shift: bool = False) -> None:
        for _ in range(times):
            for kind in ("rawKeyDown", "keyUp"):
                self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key,
                          windowsVirtualKeyCode=KEYS[key], modifiers=8 if shift else 0)
        self.drawn()

    def mouse(self, kind: str, x: float, y: float) -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1,
                  buttons=0 if kind == "mouseReleased" else 1)

    def drag(self, start: tuple[float, float], end: tuple[float, float], pieces: int = 4) -> None:
        (x0, y0), (x1, y1) = start, end
        self.mouse("mousePressed", x0, y0)
        for k in range(1, pieces + 1):
            self.mouse("mouseMoved", x0 + (x1 - x0) * k / pieces, y0 + (y1 - y0) * k / pieces)
        self.mouse("mouseReleased", x1, y1)
        self.drawn()

    def centre(self, selector: str) -> tuple[float, float]:
        """Of an element, scrolled into view, in the window."""
        return tuple(self.js(
            f"(() => {{const e = document.querySelector({json.dumps(selector)}); "
            "e.scrollIntoView({block: 'center', behavior: 'instant'}); "
            "const r = e.getBoundingClientRect(); "
            "return [r.x + r.width / 2, r.y + r.height / 2]})()"))

    def picture(self, path: Path, selector: str) -> None:
        """Of one element, whole."""
        box = self.js(
            f"(() => {{const r = document.querySelector({json.dumps(selector)})"
            ".getBoundingClientRect(); return {x: r.x + scrollX, y: r.y + scrollY, "
            "width: r.width, height: r.height, scale: 1}})()")
        data = self.call("Page.captureScreenshot", clip=box, captureBeyondViewport=True)["data"]
        Path(path).write_bytes(base64.b64decode(data))


@contextlib.contextmanager
def driven():
    """A browser with one page, ended at the end."""
    ask_read, ask_write = os.pipe()
    answer_read, answer_write = os.pipe()

    def pipes():  # in the child: the browser reads from 3 and writes to 4
        one, two = os.dup(ask_read), os.dup(answer_write)
        os.dup2(one, 3)
        os.dup2(two, 4)

    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [browser.find(), *browser.QUIET, f"--user-data-dir={profile}",
             "--remote-debugging-pipe", "about:blank"],
            preexec_fn=pipes, close_fds=False, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        os.close(ask_read)
        os.close(answer_write)
        try:
            yield Driven(ask_write, answer_read)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(ask_write)
            os.close(answer_read)
