"""Index of the record's tensors in an event file; each call reads on from the end of the last one.

TensorBoard's own loader computes the checksum of every byte in Python, a megabyte per second, and imports TensorFlow
if that is installed; here lengths are trusted, and a record that cannot be parsed is left out.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.util import tensor_util

from convscope.dashboard.form import PLUGIN

_MARK = f"{PLUGIN}/".encode()
_SMALL = 4096  # largest event, in bytes, that is kept, so that a curve is read without opening a file for each check
_HEAD, _TAIL = 12, 4  # length and its checksum before a record, the checksum of the data after it


@dataclass(frozen=True)
class Stored:
    """Place of a tensor: file, offset and length of its event, and the event itself if it is small."""

    path: Path
    place: int
    length: int
    data: bytes | None = None

    def read(self, tag: str) -> Any:
        """The tensor as an array; bytes unchanged."""
        data = self.data
        if data is None:
            with self.path.open("rb") as file:
                file.seek(self.place)
                data = file.read(self.length)
        event = Event.FromString(data)
        value = next(value for value in event.summary.value if value.tag == tag)
        return tensor_util.make_ndarray(value.tensor)


@dataclass
class EventFile:
    """One event file, and the place up to which it has been read."""

    path: Path
    read: int = 0

    def added(self) -> Iterator[tuple[str, int, Stored]]:
        """Tag, step and place of the record's tensors that are new since the last call; a cut-off event waits."""
        for start, data in self.events():
            yield from self._tensors(data, start)

    def events(self) -> Iterator[tuple[int, bytes]]:
        """Place and bytes of the events that are new since the last call."""
        with self.path.open("rb") as file:
            size = file.seek(0, 2)
            while self.read + _HEAD + _TAIL <= size:
                file.seek(self.read)
                (length,) = struct.unpack("<Q", file.read(8))
                start = self.read + _HEAD
                if start + length + _TAIL > size:
                    return  # still being written, or cut off
                file.seek(start)
                data = file.read(length)
                self.read = start + length + _TAIL
                yield start, data

    def _tensors(self, data: bytes, start: int) -> Iterator[tuple[str, int, Stored]]:
        event = parsed(data) if _MARK in data else None
        if event is None:
            return
        for value in event.summary.value:
            if value.tag.startswith(f"{PLUGIN}/") and value.HasField("tensor"):
                yield value.tag, event.step, Stored(self.path, start, len(data), data if len(data) <= _SMALL else None)


def parsed(data: bytes) -> Any | None:
    """An event; None if it is damaged."""
    try:
        return Event.FromString(data)
    except DecodeError:
        return None


def event_files(folder: Path) -> list[Path]:
    """Event files of a folder in the order in which they were started."""
    return sorted(folder.glob("*tfevents*"), key=_begun)


def _begun(path: Path) -> tuple[int, str]:
    found = re.search(r"tfevents\.(\d+)", path.name)
    return (int(found[1]) if found else 0), path.name


def holds_record(path: Path) -> bool:
    """Return whether an event file contains any part of a record."""
    return next(EventFile(path).added(), None) is not None
