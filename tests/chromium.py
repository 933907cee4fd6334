"""Control headless Chromium over the DevTools protocol, with the standard library only.

https://chromedevtools.github.io/devtools-protocol. With --remote-debugging-pipe the browser
reads commands from file 3 and answers on file 4: JSON, each message ended by a zero byte.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)

# The pipes may come with any numbers; the browser wants 3 and 4.
_LAUNCH = """
import os, sys
read, write = (os.dup(int(n)) for n in sys.argv[1:3])
while min(read, write) < 5:
    read, write = os.dup(read), os.dup(write)
os.dup2(read, 3)
os.dup2(write, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find() -> str | None:
    """Return the path of Chromium or Chrome, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


class Page:
    """One tab, with the URLs that it requested and the dialogs that it opened."""

    def __init__(self, program: str, profile: Path, *, timeout: float = 60.0) -> None:
        self.timeout = timeout
        self.requests: list[str] = []
        self.dialogs: list[str] = []
        self.complaints: list[str] = []
        self._loaded: set[str] = set()
        self._numbers = itertools.count(1)
        self._received = b""
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-c", _LAUNCH, str(commands), str(answers)),
                *(program, *FLAGS, f"--user-data-dir={profile}", "about:blank"),
            ],
            pass_fds=(commands, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self._session = None
        target = self("Target.createTarget", url="about:blank")["targetId"]
        attached = self("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self(f"{domain}.enable")
        self("Page.setLifecycleEventsEnabled", enabled=True)

    def close(self) -> None:
        """Close the browser."""
        self._process.kill()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the protocol and return its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next(time.monotonic() + self.timeout)
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self._read, 1 << 20) if ready else b""
            if not data:
                raise TimeoutError(f"no answer from the browser in {self.timeout:g} s")
            self._received += data
        message, _, self._received = self._received.partition(b"\0")
        event = json.loads(message)
        parameters = event.get("params", {})
        match event.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])
            case "Page.javascriptDialogOpening":
                self.dialogs.append(parameters["message"])
            case "Log.entryAdded":
                self.complaints.append(parameters["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(parameters["exceptionDetails"]))
            case "Page.lifecycleEvent" if parameters["name"] == "load":
                self._loaded.add(parameters["loaderId"])
        return event

    def open(self, page: Path | str, fragment: str = "") -> None:
        """Load a file or an address afresh and wait for it and its images."""
        self._go("about:blank")  # else a new fragment alone would load nothing
        self.requests.clear()
        self.dialogs.clear()
        self.complaints.clear()
        address = page if isinstance(page, str) else page.resolve().as_uri()
        self._go(address + (f"#{fragment}" if fragment else ""))

    def _go(self, address: str) -> None:
        loader = self("Page.navigate", url=address)["loaderId"]
        deadline = time.monotonic() + self.timeout
        while loader not in self._loaded:
            self._next(deadline)

    def __getitem__(self, expression: str) -> Any:
        """Return the value of a JavaScript expression; await promises."""
        result = self(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until a JavaScript expression is true."""
        deadline = time.monotonic() + self.timeout
        while not self[expression]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"not true in {self.timeout:g} s: {expression}")
            time.sleep(0.05)

    def choose_files(self, element: str, files: list[Path]) -> None:
        """Choose files for the file input of this id, as a user would."""
        found = self("Runtime.evaluate", expression=f"document.getElementById({element!r})")
        names = [str(path.resolve()) for path in files]
        self("DOM.setFileInputFiles", files=names, objectId=found["result"]["objectId"])

    def press(self, key: str) -> None:
        """Press and release a key, such as ArrowRight or Tab."""
        code = {"Tab": 9, "Enter": 13, "ArrowLeft": 37, "ArrowRight": 39}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        event = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self("Input.dispatchKeyEvent", type="keyDown", **event, **text)
        self("Input.dispatchKeyEvent", type="keyUp", **event)

    def settle(self) -> None:
        """Wait for the next frames."""
        self["new Promise(f => requestAnimationFrame(() => requestAnimationFrame(f)))"]

    def screenshot(self, path: Path) -> None:
        """Write a screenshot of the window to `path`."""
        data = self("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))

    def window(self, width: int, height: int, *, dark: bool = False, scale: float = 1) -> None:
        """Set the size in CSS pixels, and the colour scheme."""
        self(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self("Emulation.setEmulatedMedia", features=[scheme])
