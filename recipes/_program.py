"""Shared parts of the recipes: the command line, the watched trainer, and the report at the end."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger

import convscope


def command_line(doc: str | None, epochs: int, epochs_help: str = "epochs to train") -> argparse.ArgumentParser:
    """A parser whose description is the recipe's docstring as plain text, with ``--epochs`` and ``--logdir``."""
    description = (doc or "").replace("``", "").replace(" (--help for options)", "")
    parser = argparse.ArgumentParser(description=description, formatter_class=_Paragraphs)
    parser.add_argument("--epochs", type=at_least_one, default=epochs, help=f"{epochs_help} (default {epochs})")
    parser.add_argument(
        "--logdir", type=folder_to_write, default=Path("runs"), help="folder of the TensorBoard run (default runs)"
    )
    return parser


class _Paragraphs(argparse.HelpFormatter):
    """Each paragraph is filled by itself, to the terminal's width."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(super(_Paragraphs, self)._fill_text(part, width, indent) for part in text.split("\n\n"))


def at_least_one(text: str) -> int:
    """A whole number, at least 1, as argparse reads it: Lightning takes -1 epochs for a run without an end."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number, at least 1")
    return number


def folder_to_write(text: str) -> Path:
    """A folder that is there or can be made, as argparse reads it."""
    path = Path(text)
    nearest = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r}: {nearest} is no folder that can be written; give another one")
    return path


def watched_trainer(
    name: str, epochs: int, heldout: convscope.HeldOut, logdir: Path, *callbacks: L.Callback
) -> tuple[L.Trainer, convscope.DriftAlert]:
    """A trainer with everything that the default rules look at, and its alerts.

    Args:
        name: Of the run's folder.
        epochs: To train.
        heldout: Shared by all callbacks.
        logdir: Folder of the runs.
        *callbacks: The recipe's own callbacks; one of a class that the suite has replaces the suite's.
    """
    alert = convscope.DriftAlert()
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=TensorBoardLogger(logdir, name=name),
        log_every_n_steps=5,
        callbacks=[*convscope.suite("standard", heldout=heldout, alerts=False), *callbacks, alert],
    )
    return trainer, alert


def report(headline: str, alert: convscope.DriftAlert) -> None:
    """Print what was found and when."""
    print(f"\n{headline} What was said, and when:")
    for found in alert.incidents:
        print(f"  {found.duration}: [{found.severity}] {found.rule}: {found.text}")


def where_to_look(trainer: L.Trainer) -> None:
    """Print the line that shows the run in TensorBoard; with several processes, call it on all."""
    folder = trainer.log_dir  # a collective
    if trainer.is_global_zero:
        print(f"\nSee it all:  tensorboard --logdir {folder}")


def leave_the_processes() -> None:
    """End the process group, if there is one. Lightning leaves gloo's open, and torch may then abort at exit."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
