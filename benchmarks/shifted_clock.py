"""A clock of their own for the processes that a benchmark starts, which can be set while they run.

The time of day of these processes is the machine's plus a shift: a small library that is loaded before the C library
answers `clock_gettime`, `gettimeofday` and `time`. Monotonic clocks, sleeps and time stamps of files stay those of the
machine.
"""

import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_LIBRARY = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *shift;

__attribute__((constructor)) static void attach(void) {
    int file = open(getenv("CLOCK_SHIFT"), O_RDONLY);
    if (file < 0) abort();
    shift = mmap(NULL, sizeof *shift, PROT_READ, MAP_SHARED, file, 0);
    if (shift == MAP_FAILED) abort();
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && shift && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *shift;
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec precise;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *kept) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (kept) *kept = now.tv_sec;
    return now.tv_sec;
}
"""


@contextmanager
def shifted_clock(folder: Path) -> Iterator[Callable[[int], None]]:
    """Give processes that are started in this block a clock of their own.

    Args:
        folder: a new folder for the library.

    Yields:
        A function that sets the shift of their clock, in seconds; at first it is 0.

    Raises:
        FileNotFoundError: there is no C compiler.
    """
    folder.mkdir()
    library, shift = folder / "clock.so", folder / "shift"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O2", "-x", "c", "-", "-o", library], input=_LIBRARY, text=True, check=True
    )
    shift.write_bytes(struct.pack("q", 0))

    def set_to(seconds: int) -> None:
        # The file is mapped by the processes, so it is written in place.
        with shift.open("r+b") as stream:
            stream.write(struct.pack("q", seconds))

    before = {name: os.environ.get(name) for name in ("LD_PRELOAD", "CLOCK_SHIFT")}
    os.environ |= {"LD_PRELOAD": str(library), "CLOCK_SHIFT": str(shift)}
    try:
        yield set_to
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
