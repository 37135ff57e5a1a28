"""Headless Chromium for tests of what people see, driven by the DevTools protocol."""

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from websockets.sync.client import ClientConnection, connect

from recsys_assets_tests.served import free_port, wait_for

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


class Browser:
    """A page in headless Chromium; `errors` holds messages of the console."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._calls = 0
        self.errors: list[str] = []
        for domain in ("Log", "Runtime", "Page"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> dict:
        """The result of a DevTools method."""
        self._calls += 1
        self._connection.send(json.dumps({"id": self._calls, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(timeout=120))
            if message.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
                self.errors.append(json.dumps(message["params"]))
            if message.get("id") == self._calls:
                return message["result"]

    def value(self, expression: str) -> object:
        """The value of a JavaScript expression; a promise is awaited."""
        asked = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        answer = self.call("Runtime.evaluate", **asked)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def open(self, page: Path | str) -> None:
        """Load a file or an address and wait until it is complete."""
        url = page.as_uri() if isinstance(page, Path) else page
        self.value("window.isOld = true")
        self.call("Page.navigate", url=url)
        wait_for(f"loading {url}", lambda: self.value("!window.isOld && document.readyState === 'complete'"))

    def wait(self, expression: str) -> object:
        """Wait until a JavaScript expression is true; its value."""
        return wait_for(expression, lambda: self.value(expression))

    def resize(self, width: int, height: int = 800) -> None:
        """Show the page in a window of this size; narrow windows are phones."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def scheme(self, name: str) -> None:
        """Prefer `light` or `dark` pages."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def screenshot(self, path: Path) -> None:
        """Store what the window shows as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """A browser with an empty profile."""
    port = free_port()
    process = subprocess.Popen(
        [
            *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--remote-debugging-port={port}"),
            *(f"--user-data-dir={profile}", "--window-size=1280,1000", "about:blank"),
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        with connect(wait_for("Chromium's answer", lambda: _page(port), 60), max_size=None) as connection:
            yield Browser(connection)
    finally:
        process.kill()
        process.wait()


def _page(port: int) -> str | None:
    """The WebSocket address of the first page; None before Chromium answers."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/json") as answer:
            pages = [each for each in json.load(answer) if each["type"] == "page"]
    except OSError:
        return None
    return str(pages[0]["webSocketDebuggerUrl"]) if pages else None
