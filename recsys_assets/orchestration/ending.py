"""Ends a command within seconds after SIGINT (Ctrl-C) or SIGTERM (`kill`, `timeout`, systemd, Docker).

Dagster, PySpark and other libraries replace signal handlers. A signal to the process group also kills the JVM, so that
a step may fail with a dead JVM before Python handles the signal. This module therefore reads signals from the wakeup
file descriptor: the interpreter writes every signal there, whatever its handler does.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Docker sends SIGKILL 10 s after SIGTERM, systemd after 90 s.
_GRACE_SECONDS = 8.0
# `timeout` signals its child and then the child's process group: one request. A second request by a person comes later.
_SAME_REQUEST_SECONDS = 1.0
# A signal to a process group or a cgroup reaches its processes one after the other.
_ARRIVES_WITHIN_SECONDS = 1.0


class Ending:
    """The requests to end this process that came as signals.

    Attributes:
        signal: number of the first signal that asked the process to end; None before that.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._asked = threading.Event()

    def is_asked_for(self, *, after_a_death: bool = False) -> bool:
        """Whether a signal has arrived.

        Args:
            after_a_death: whether to wait up to a second for a signal. If another process has died, a signal to the
                process group may have killed it and may reach this process later.
        """
        return self._asked.wait(_ARRIVES_WITHIN_SECONDS if after_a_death else 0)

    def remind(self) -> None:
        """Call the present signal handler once more if a signal has arrived.

        Raises:
            BaseException: the error that the handler raises.
        """
        if self.signal is not None and callable(handler := signal.getsignal(self.signal)):
            handler(self.signal, None)

    def listen(self, signals: socket.socket) -> None:
        """Record signals until the other end of the socket is closed.

        A second request, or the end of the grace period, kills this process and its children.
        """
        deadline = 0.0
        while True:
            try:
                received = signals.recv(1)
            except TimeoutError:
                _end_now(self.signal)
            if not received:
                return
            if received[0] not in SIGNALS:
                continue
            if self.signal is None:
                self.signal, deadline = received[0], time.monotonic() + _GRACE_SECONDS
                self._asked.set()
            elif time.monotonic() > deadline - _GRACE_SECONDS + _SAME_REQUEST_SECONDS:
                _end_now(self.signal)
            signals.settimeout(max(deadline - time.monotonic(), 0.001))


# A global, because signals are sent to a process.
_present = Ending()


def is_ending(*, after_a_death: bool = False) -> bool:
    """Whether a signal has asked this process to end since `ending` began; see `Ending.is_asked_for`."""
    return _present.is_asked_for(after_a_death=after_a_death)


def remind() -> None:
    """Interrupt once more if this process has been asked to end. Long work calls this between its pieces.

    An interrupt may be lost: Python ignores errors in callbacks and finalizers, and Dagster drops an interrupt that
    arrives at the end of a capture.
    """
    _present.remind()


@contextmanager
def ending() -> Iterator[None]:
    """Raise `KeyboardInterrupt` when a signal asks this process to end; after the block, end it by that signal.

    A shell therefore sees exit status 143 or 130, and systemd sees a clean stop. A second request kills the process at
    once, and so does a block that does not end within 8 seconds. That is safe: every write is atomic, and the next run
    does the rest.
    """
    global _present
    ours, interpreters = socket.socketpair()
    interpreters.setblocking(False)
    told = _present = Ending()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    descriptor = signal.set_wakeup_fd(interpreters.fileno(), warn_on_full_buffer=False)
    for number in SIGNALS:
        # A shell that starts a program in the background may set SIGINT to be ignored.
        signal.signal(number, signal.default_int_handler)
    # A forked process inherits the wakeup descriptor: a signal to a worker would end its parent too.
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    listener = threading.Thread(target=told.listen, args=(ours,), daemon=True)
    listener.start()
    try:
        yield
    finally:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN if told.is_asked_for() else before[number])
        signal.set_wakeup_fd(descriptor)
        interpreters.close()
        listener.join()
        ours.close()
        if told.signal is not None:
            _end_by(told.signal)


def _end_by(number: int) -> None:
    """End this process by the signal itself, so that the exit status does not look like a failure."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _end_now(number: int | None) -> None:
    """Kill this process and its children from a thread, because the main thread may be stuck in a library."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()
    os._exit(128 + (number or signal.SIGTERM))
