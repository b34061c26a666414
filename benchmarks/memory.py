"""Memory of this process, and the most of it within a block; Linux only."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MIB = 2**20


def resident() -> float:
    """MiB of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


def trim() -> None:
    """Have the C library return memory that is free, so that what comes next does not find it there."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)


class Peak(threading.Thread):
    """The most memory that the process had, looked at two hundred times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.going = 0.0, True

    def run(self) -> None:
        """Look until told to stop."""
        while self.going:
            self.most = max(self.most, resident())
            time.sleep(0.005)


@contextmanager
def watched() -> Iterator[Peak]:
    """A running :class:`Peak`."""
    peak = Peak()
    peak.start()
    try:
        yield peak
    finally:
        peak.going = False
        peak.join()
