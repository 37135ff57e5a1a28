"""Turns charts' specifications into SVG and PNG, in a process of its own.

vl-convert does not raise where it cannot go on: it aborts its process, and so would end a run for a picture. A child
that dies costs that picture alone; the next one gets a new child. The child starts in half a second, serves all
pictures of its parent, and ends when its parent does. What charts show belongs to the modules that draw.
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

# A picture takes a tenth of a second; one that hangs would keep the home's lock.
_TIMEOUT_SECONDS = 120.0
# Vega measures texts for a millisecond per character, and no picture has room for more.
_LONGEST_TEXT = 300


class DrawingError(Exception):
    """A picture cannot be drawn; the message says why."""


def svg(specification: dict[str, Any], version: str) -> str:
    """The chart as SVG.

    Args:
        specification: of Vega-Lite.
        version: of Vega-Lite, as vl-convert writes it: `v6_4`.

    Raises:
        DrawingError: the chart library refuses it, dies of it or does not end.
    """
    return _CHILD.ask({"svg": drawable(specification), "version": version})


def png(drawing: str, scale: float) -> bytes:
    """The SVG as PNG, at `scale` pixels per unit.

    Raises:
        DrawingError: as for `svg`.
    """
    return base64.b64decode(_CHILD.ask({"png": drawing, "scale": scale}))


def drawable(specification: Any) -> Any:
    """The specification with every text in it as it can be drawn: without controls, and not endless."""
    if isinstance(specification, str):
        text = visible(specification)
        return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"
    if isinstance(specification, dict):
        return {name: drawable(value) for name, value in specification.items()}
    if isinstance(specification, list | tuple):
        return [drawable(value) for value in specification]
    return specification


class _Child:
    """A process that draws, started when it is first needed and again after it has died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._parent = 0
        self._lock = threading.Lock()

    def ask(self, request: dict[str, Any]) -> str:
        """One request, one answer."""
        line = json.dumps(request).encode() + b"\n"
        with self._lock:
            process = self._started()
            assert process.stdin and process.stdout
            timer = threading.Timer(_TIMEOUT_SECONDS, process.kill)
            timer.start()
            # It may have died since the last picture, or die before it has read this one.
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
        # A forked process must not share the pipes of its parent: one would get the pictures of the other.
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
    """Answer requests until the parent is gone."""
    import vl_convert

    # Ctrl-C in a terminal reaches the whole group; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    # What the library prints is no answer.
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        try:
            if "svg" in request:
                # No address may be loaded, whatever a specification says.
                drawn = vl_convert.vegalite_to_svg(request["svg"], vl_version=request["version"], allowed_base_urls=[])
            else:
                drawn = base64.b64encode(vl_convert.svg_to_png(request["png"], scale=request["scale"])).decode()
            told = {"drawn": drawn}
        except Exception as error:
            # Below it stands the library's own stack.
            told = {"error": str(error).partition("\n")[0]}
        answers.write(json.dumps(told).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    _main()
