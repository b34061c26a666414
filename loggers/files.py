"""Pictures, histograms and texts as plain files beside the run, for loggers that accept only numbers."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from convscope.loggers.backend import Backend, Pixels, finite, is_a

BINS = 64
LONGEST = 120  # bytes of one part of a path: file systems allow 255, Windows 260 in all


class FilesBackend(Backend):
    """Writes ``<folder>/<tag>/step=<step>.png``, ``….md``, and a line per step in ``<tag>/histograms.jsonl``.

    Args:
        folder: Folder of the files, made for the first one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = Path(folder)

    @classmethod
    def of(cls, logger: Any) -> Backend | None:
        """Lightning's ``CSVLogger``: files in the folder ``convscope`` beside its ``metrics.csv``."""
        return cls(Path(logger.log_dir) / "convscope") if is_a(logger, "CSVLogger") else None

    @property
    def free_space(self) -> float:
        there = next(folder for folder in (self._folder, *self._folder.absolute().parents) if folder.exists())
        return float(shutil.disk_usage(there).free)

    def histogram(self, tag: str, values: npt.ArrayLike, step: int) -> None:
        kept = finite(values)
        if kept.size:
            counts, edges = np.histogram(kept, bins=BINS)
            line = json.dumps({"step": step, "counts": counts.tolist(), "edges": edges.tolist()})
            with self._place(tag, "histograms.jsonl").open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def image(self, tag: str, array: Pixels, step: int) -> None:
        from PIL import Image

        Image.fromarray(array).save(self._place(tag, f"step={step}.png"))

    def text(self, tag: str, markdown: str, step: int) -> None:
        self._place(tag, f"step={step}.md").write_text(markdown, encoding="utf-8")

    def _place(self, tag: str, name: str) -> Path:
        path = self._folder / tag_path(tag) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def tag_path(tag: str) -> Path:
    """A tag as a relative path that every file system accepts, a different one for each tag.

    >>> tag_path("probe/map/conv1@2").as_posix(), tag_path("a/../b:c").as_posix()
    ('probe/map/conv1@2', 'a/%2E%2E/b%3Ac')
    """
    return Path(*(_part(part) for part in tag.split("/")))


def _part(part: str) -> str:
    if not part.strip("."):  # "", "." and "..", which mean other folders
        return "%2E" * len(part) or "%"
    safe = quote(part, safe="@ ()[]+,=")
    return safe if len(safe) <= LONGEST else f"{safe[:LONGEST]}%{hashlib.sha1(part.encode()).hexdigest()[:8]}"
