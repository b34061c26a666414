"""Tensors of one record by tag and step: what the reader asks for, and the source that reads them from event files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from convscope.dashboard import form
from convscope.dashboard.events import EventFile, Stored, event_files


class Tensors(Protocol):
    """Source of a run's tensors: event files, or TensorBoard's data provider."""

    def refresh(self) -> bool:
        """Look for new tensors; return whether there may be any."""

    def tags(self) -> list[str]:
        """Tags under which there is a tensor, in the order in which they came up where that is known."""

    def steps(self, tag: str) -> list[int]:
        """Steps of a tag's tensors in ascending order; empty if there is none."""

    def read(self, tag: str, step: int) -> Any:
        """One tensor as an array; bytes unchanged."""


class FileTensors:
    """Tensors of a record in the event files of a folder; each refresh reads on from the end of the last one.

    Args:
        folder: The folder with the run's event files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[Path, EventFile] = {}
        self._tensors: dict[str, dict[int, Stored]] = {}

    def refresh(self) -> bool:
        """Read new tensors; return whether there were any."""
        found = False
        for path in event_files(self._folder):
            for tag, step, stored in self._files.setdefault(path, EventFile(path)).added():
                if tag == form.SESSION:
                    self._drop_from(json.loads(as_text(stored.read(tag)))["begins"])
                self._tensors.setdefault(tag, {})[step] = stored
                found = True
        return found

    def _drop_from(self, begins: int) -> None:
        """Drop the checks of earlier sessions from the step at which a later session begins: it repeats them."""
        for kept in self._tensors.values():
            for step in [step for step in kept if step >= begins]:
                del kept[step]

    def tags(self) -> list[str]:
        """Tags under which there is a tensor, in the order in which they came up."""
        return [tag for tag, found in self._tensors.items() if found]

    def steps(self, tag: str) -> list[int]:
        """Steps of a tag's tensors in ascending order."""
        return sorted(self._tensors.get(tag, ()))

    def read(self, tag: str, step: int) -> Any:
        """One tensor as an array; bytes unchanged."""
        return self._tensors[tag][step].read(tag)


class ChosenChecks:
    """Tensors of a record of which only some checks count as made.

    Args:
        tensors: Those of the whole record.
        steps: Steps of the checks that count.
    """

    def __init__(self, tensors: Tensors, steps: set[int]) -> None:
        self._whole, self._chosen = tensors, steps

    def refresh(self) -> bool:
        """True: the choice was made when the record was as it is."""
        return True

    def tags(self) -> list[str]:
        """Tags of the whole record."""
        return self._whole.tags()

    def steps(self, tag: str) -> list[int]:
        """Steps of a tag's tensors; of the mark of a check those that were chosen."""
        found = self._whole.steps(tag)
        return [step for step in found if step in self._chosen] if tag == form.CHECK else found

    def read(self, tag: str, step: int) -> Any:
        """One tensor as an array; bytes unchanged."""
        return self._whole.read(tag, step)


def as_text(value: Any) -> str:
    """A text that was stored as a tensor."""
    found = np.asarray(value).item()
    return found.decode("utf-8") if isinstance(found, bytes) else str(found)
