"""Ends a command by Ctrl-C or TERM, as `kill`, `timeout`, systemd and Docker send it, within seconds and once only.

Dagster, PySpark and the libraries below them replace signal handlers, and whoever signals a process group kills the JVM
too, so that a step may fail of its dead JVM before the signal is seen. What has come is therefore read from the wakeup
file descriptor, to which the interpreter writes every signal whatever its handler does.
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
# Docker kills what has not ended within 10 s, systemd within 90.
_GRACE_SECONDS = 8.0
# `timeout` signals its child, then the child's group: the same request. A person who asks again does so later.
_SAME_REQUEST_SECONDS = 1.0
# Whoever signals a group or a control group reaches one process after the other.
_ARRIVES_WITHIN_SECONDS = 1.0


class Ending:
    """What this process has been told by signals.

    Attributes:
        signal: that asked it to end; None as long as none has.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._asked = threading.Event()

    def is_asked_for(self, *, after_a_death: bool = False) -> bool:
        """Whether a signal has come.

        Args:
            after_a_death: another process has died, perhaps of a signal to the group that is still on its way here.
        """
        return self._asked.wait(_ARRIVES_WITHIN_SECONDS if after_a_death else 0)

    def remind(self) -> None:
        """Interrupt the main thread once more where a signal has come, as the handler in force at present does it.

        Raises:
            BaseException: what that handler raises.
        """
        if self.signal is not None and callable(handler := signal.getsignal(self.signal)):
            handler(self.signal, None)

    def listen(self, signals: socket.socket) -> None:
        """Take note of signals until the other end is closed; end the process where it cannot end by itself."""
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


# Signals are told to a process, not to one of its functions.
_present = Ending()


def is_ending(*, after_a_death: bool = False) -> bool:
    """Whether this process has been asked to end since `ending` began; arguments as of `Ending.is_asked_for`."""
    return _present.is_asked_for(after_a_death=after_a_death)


def remind() -> None:
    """Interrupt once more if this process has been asked to end, to be called between the pieces of long work.

    An interrupt may be lost: Python ignores what is raised in a callback or a finalizer, and Dagster forgets what comes
    at the end of one of its captures.
    """
    _present.remind()


@contextmanager
def ending() -> Iterator[None]:
    """Raise `KeyboardInterrupt` when this process is asked to end, and end it by that signal after the block.

    So a shell sees status 143 or 130, and systemd a clean stop. A process that is asked for the second time, or has not
    come to its end within seconds, is ended where it stands: every write is atomic, and the next run takes up the rest.
    """
    global _present
    ours, interpreters = socket.socketpair()
    interpreters.setblocking(False)
    told = _present = Ending()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    descriptor = signal.set_wakeup_fd(interpreters.fileno(), warn_on_full_buffer=False)
    for number in SIGNALS:
        # A shell that starts a program in the background may have had it ignore one of them.
        signal.signal(number, signal.default_int_handler)
    # A forked process has the descriptor too: what ends a worker must not end who has started it.
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
    """End this process as the signal would have ended it: nobody takes an exit status of its own for a failure."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _end_now(number: int | None) -> None:
    """End this process and all that it has started, from a thread, while the main thread may be deep in a library."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()
    os._exit(128 + (number or signal.SIGTERM))
