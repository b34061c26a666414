"""Files of a callback beside the run's checkpoints."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from convscope.callbacks.engine.findings import Moment
from convscope.loggers.folder import is_remote


def moment_name(when: Moment) -> str:
    """Name of a check in a file's name, as checkpoints have it: ``epoch=3``."""
    if when.trigger == "start":
        return "start"
    return f"epoch={when.epoch}" + (f"-step={when.step}" if when.trigger == "step" else "")


def checkpoint_folder(trainer: pl.Trainer, otherwise: Path) -> Path:
    """Folder of the checkpoints; ``otherwise`` if there are none or it is not on this machine."""
    found = getattr(trainer.checkpoint_callback, "dirpath", None)
    return otherwise if found is None or is_remote(found) else Path(found)


def save_whole(saved: dict[str, Any], path: Path) -> None:
    """Save the file whole or not at all: a run that is killed does not leave half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    torch.save(saved, part)
    os.replace(part, path)
