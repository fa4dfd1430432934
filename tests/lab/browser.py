"""A browser: headless Chromium, driven over the pipe of its DevTools protocol, so that no driver need be installed."""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip
PIPES = 'exec "${@:3}" 3<&"$1" 4>&"$2" 2>/dev/null'  # Chromium reads commands from 3 and writes answers to 4
SECONDS = 60  # for any answer
KEYS = {"Tab": (9, ""), "Enter": (13, "\r")}


def installed() -> str | None:
    """The path of a Chromium on this machine, if there is one."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


class Browser:
    """One page in a browser of its own.

    Attributes:
        events: what the browser has told of its own accord, such as requests and errors.
    """

    def __init__(self, program, folder):
        """Start; `folder` holds the user's data."""
        (theirs_in, self._out), (self._in, theirs_out) = os.pipe(), os.pipe()
        ends = (str(theirs_in), str(theirs_out))
        words = [program, *FLAGS, "--remote-debugging-pipe", f"--user-data-dir={folder}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", PIPES, "bash", *ends, *words], pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL
        )
        os.close(theirs_in), os.close(theirs_out)
        self._numbers, self._rest, self._session, self.events = itertools.count(1), b"", {}, []
        page = next(each for each in self.ask("Target.getTargets")["targetInfos"] if each["type"] == "page")
        found = self.ask("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = {"sessionId": found["sessionId"]}
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method, **params):
        """The answer to one command of the protocol."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params} | self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != number:
            self.events.append(answer)
        assert "result" in answer, f"{method}: {answer}"
        return answer["result"]

    def open(self, path):
        """Load a file, to its end; forgets earlier events."""
        self.events.clear()
        self.ask("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def run(self, expression):
        """The value of an expression of JavaScript."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def click(self, selector, number=0):
        """Click with the mouse on the middle of an element."""
        element = f"document.querySelectorAll({json.dumps(selector)})[{number}]"
        box = self.run(f"{element}.scrollIntoView({{block: 'center'}}), {element}.getBoundingClientRect().toJSON()")
        place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def press(self, key):
        """Press and release a key."""
        code, text = KEYS[key]
        names = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.ask("Input.dispatchKeyEvent", type="keyDown", text=text, **names)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **names)

    def size(self, width, height, *, scheme="light"):
        """Set the size of the page in pixels, and its colour scheme."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, path):
        """Write what is seen now to a PNG."""
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))

    def close(self):
        """End the browser."""
        self.ask("Browser.close")
        self._process.wait(SECONDS)
        os.close(self._in), os.close(self._out)

    def _next(self):
        """The next message of the browser."""
        until = time.monotonic() + SECONDS
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(0, until - time.monotonic()))
            piece = os.read(self._in, 2**16) if ready else b""
            assert piece, "the browser has ended or does not answer"
            self._rest += piece
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)
