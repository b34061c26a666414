"""Lightning checkpoints of one run in the order in which they were saved, and their weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Saved:
    """A checkpoint, and the moment at which it was saved.

    Attributes:
        path: The file.
        epoch: Epoch counted from 0, as checks of that moment have it.
        step: Training step on the axis that ``self.log`` uses.
        updates: Optimizer steps until then, ``trainer.global_step``; 0 before training.
    """

    path: Path
    epoch: int
    step: int
    updates: int


def saved_in(
    source: str | Path | Iterable[str | Path], weights_only: bool, without: Path
) -> tuple[list[Saved], dict[Path, str]]:
    """Checkpoints by step, one per step, and a sentence for each file that cannot be read.

    Args:
        source: A folder, of which all ``*.ckpt`` at or below it are taken, or paths.
        weights_only: As for ``torch.load``.
        without: A folder whose files are left out: that of the replay.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if there is no checkpoint.
    """
    found: dict[int, Saved] = {}
    broken: dict[Path, str] = {}
    for path in [path for path in _paths(source) if without not in path.parents]:
        try:
            saved = _moment_of(path, read_checkpoint(path, weights_only, whole=False))
        except ValueError as error:
            broken[path] = str(error)
            continue
        # last.ckpt repeats another one, whose name says more.
        if saved.updates not in found or found[saved.updates].path.stem.startswith("last"):
            found[saved.updates] = saved
    return [found[updates] for updates in sorted(found)], broken


def _paths(source: str | Path | Iterable[str | Path]) -> list[Path]:
    if not isinstance(source, str | Path):
        return [Path(path) for path in source]
    folder = Path(source)
    if folder.is_file():
        return [folder]
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: there is no such folder; give the one with Lightning's *.ckpt files")
    found = sorted(folder.rglob("*.ckpt"))
    if not found:
        raise ValueError(f"{folder}: there are no checkpoints here; give the folder with Lightning's *.ckpt files")
    return found


def read_checkpoint(path: Path, weights_only: bool, whole: bool = True) -> dict[str, Any]:
    """A checkpoint's content, on the CPU; not ``whole``: tensors stay on the disk until they are used.

    Raises:
        ValueError: if it cannot be read, or holds no weights.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=weights_only, mmap=not whole)
    except Exception as error:
        unsafe = weights_only and "eights_only" in str(error)
        why = "if you trust it: weights_only=False" if unsafe else "it is damaged, or no checkpoint"
        raise ValueError(f"{path} cannot be read ({type(error).__name__}); {why}") from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise ValueError(f"{path} is no Lightning checkpoint: it has no 'state_dict'")
    return content


def _moment_of(path: Path, content: dict[str, Any]) -> Saved:
    """The moment of the check that was, or would have been, made when it was saved."""
    updates = int(content.get("global_step", 0))
    try:
        loop = content["loops"]["fit_loop"]
        progress, stepped = loop["epoch_progress"]["current"], loop["epoch_loop.state_dict"]["_batches_that_stepped"]
    except (KeyError, TypeError):
        return Saved(path, int(content.get("epoch", 0)), max(updates - 1, 0), updates)
    # During an epoch the loop has yet to count the last step and the epoch.
    past = 0 if progress["ready"] > progress["processed"] else 1
    return Saved(path, max(progress["processed"] - past, 0), max(stepped - past, 0), updates)


def refuse_other_weights(module: nn.Module, weights: dict[str, Any], path: Path) -> None:
    """Check that weights are those of a module.

    Raises:
        ValueError: if some are missing, unknown or of another shape; it names the first.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in weights]
    unknown = [name for name in weights if name not in own]
    unlike = [name for name in own if name in weights and _shape(own[name]) != _shape(weights[name])]
    if missing or unknown or unlike:
        first = (missing or unknown or unlike)[0]
        raise ValueError(
            f"{path} does not fit {type(module).__name__}: {len(missing)} of its weights are missing, {len(unknown)} "
            f"are unknown, {len(unlike)} have another shape (the first: {first}); give the class that was trained, "
            "built with the same arguments"
        )


def _shape(value: Any) -> Any:
    return tuple(value.shape) if hasattr(value, "shape") and not nn.parameter.is_lazy(value) else None
