"""Renders Vega-Lite specifications to SVG and PNG in a child process.

vl-convert does not raise on some errors but aborts its process, which would end the whole run. A child process that
dies costs one chart; the next chart gets a new child. The child starts in half a second, renders all charts of its
parent, and ends with its parent. The contents of charts belong in the modules that draw them.
"""

import base64
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any

from recsys_assets.recommender.data.characters import visible

# A chart takes a tenth of a second; a chart that hangs would hold the lock of the home.
_TIMEOUT_SECONDS = 120.0
# Vega needs a millisecond per character to measure a text, and no chart has room for longer texts.
_LONGEST_TEXT = 300


class DrawingError(Exception):
    """A chart cannot be rendered; the message says why."""


def svg(specification: dict[str, Any], version: str) -> str:
    """Renders a specification as SVG.

    Args:
        specification: Vega-Lite specification.
        version: version of Vega-Lite in the form of vl-convert: `v6_4`.

    Raises:
        DrawingError: the chart library refuses the specification, crashes or does not finish in time.
    """
    return _CHILD.ask({"svg": drawable(specification), "version": version})


def png(drawing: str, scale: float) -> bytes:
    """Renders an SVG as PNG, at `scale` pixels per unit.

    Raises:
        DrawingError: the chart library refuses the SVG, crashes or does not finish in time.
    """
    return base64.b64decode(_CHILD.ask({"png": drawing, "scale": scale}))


def drawable(specification: Any) -> Any:
    """The specification with control characters removed from its texts, and with long texts cut."""
    if isinstance(specification, str):
        text = visible(specification)
        return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"
    if isinstance(specification, dict):
        return {name: drawable(value) for name, value in specification.items()}
    if isinstance(specification, list | tuple):
        return [drawable(value) for value in specification]
    return specification


class _Child:
    """A child process that renders; started at the first request and again after it has died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._parent = 0
        self._lock = threading.Lock()

    def ask(self, request: dict[str, Any]) -> str:
        """Sends one request and returns the answer."""
        line = json.dumps(request).encode() + b"\n"
        with self._lock:
            process = self._started()
            assert process.stdin and process.stdout
            timer = threading.Timer(_TIMEOUT_SECONDS, process.kill)
            timer.start()
            # The child may have died since the last chart, or die before it reads this request.
            with suppress(BrokenPipeError):
                process.stdin.write(line)
                process.stdin.flush()
            answer = process.stdout.readline()
            timer.cancel()
            if not answer:
                self._process = None
                process.stdin.close()
                process.stdout.close()
                raise DrawingError(f"the chart library ended its process ({_how_it_ended(process.wait())})")
        told: dict[str, str] = json.loads(answer)
        if "error" in told:
            raise DrawingError(told["error"])
        return told["drawn"]

    def _started(self) -> "subprocess.Popen[bytes]":
        # A forked process must not share the pipes of its parent: each would receive charts of the other.
        if self._process is None or self._parent != os.getpid():
            command = [sys.executable, "-W", "ignore", "-m", __name__]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self._parent = os.getpid()
        return self._process


def _how_it_ended(status: int) -> str:
    if status == -signal.SIGKILL:
        return f"killed, perhaps because a picture took longer than {_TIMEOUT_SECONDS:g} s"
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


_CHILD = _Child()


def _main() -> None:
    """Answers requests until the parent ends."""
    import vl_convert

    # Ctrl-C in a terminal signals the whole process group; only the parent reacts to it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    # Output that the library prints must not be read as an answer.
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        try:
            if "svg" in request:
                # No specification may load a URL.
                drawn = vl_convert.vegalite_to_svg(request["svg"], vl_version=request["version"], allowed_base_urls=[])
            else:
                drawn = base64.b64encode(vl_convert.svg_to_png(request["png"], scale=request["scale"])).decode()
            told = {"drawn": drawn}
        except Exception as error:
            # The lines below the first one are the stack trace of the library.
            told = {"error": str(error).partition("\n")[0]}
        answers.write(json.dumps(told).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    _main()
