"""A trainer for programs that several processes run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L


def quiet_trainer(folder: Path, **arguments: Any) -> L.Trainer:
    """A trainer on the CPU that prints, logs and saves nothing, unless ``arguments`` say so."""
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "default_root_dir": folder,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    return L.Trainer(**{**quiet, **arguments})
