"""What a terminal shows: our lines and tables above Lightning's progress bar, and the progress of a wait in it."""

from __future__ import annotations

import fcntl
import logging
import os
import pty
import re
import struct
import sys
import termios
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from lightning.pytorch.callbacks import TQDMProgressBar

import convscope
from convscope.callbacks.engine import progress
from convscope.callbacks.engine.console import above_the_bar
from convscope.callbacks.engine.progress import Progress

pyte = pytest.importorskip("pyte")
ROOT = Path(__file__).parents[2]
COLUMNS, ROWS = 150, 40


def written_by(*command: str) -> bytes:
    """Everything that a program writes to a terminal of its own."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        os.environ |= {"TERM": "xterm-256color", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
        os.execv(sys.executable, [sys.executable, *command])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    found = b""
    while part := _read(terminal):
        found += part
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, found.decode()[-3000:]
    return found


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # so Linux says that the other end is closed
        return b""


def shown(written: bytes) -> list[str]:
    """The lines that a person finds on the screen, scrolling up too."""
    screen = pyte.HistoryScreen(COLUMNS, ROWS, history=10_000, ratio=0.5)
    pyte.ByteStream(screen).feed(written)
    above = ["".join(row[column].data for column in range(COLUMNS)) for row in screen.history.top]
    return [line.rstrip() for line in [*above, *screen.display]]


@pytest.mark.slow
@pytest.mark.parametrize("bar", ["tqdm", "rich", "none"])
def test_every_line_stands_alone_and_no_progress_is_left_behind(bar: str) -> None:
    if bar == "rich":
        pytest.importorskip("rich")
    written = written_by("-m", "tests.callbacks.terminal_program", bar)
    lines = shown(written)
    ours = [line for line in lines if "convscope:" in line]
    assert [line for line in ours if not line.startswith("convscope:")] == []
    assert len([line for line in ours if "watching 3 of 6 conv layers" in line]) == 1
    assert len([line for line in ours if "val_loss is" in line]) == 1  # the alert, which stays as it is
    titles = [line for line in lines if line in ("before training", "epoch 0", "epoch 1")]
    assert titles == ["before training", "epoch 0", "epoch 1"]
    assert sum(line.startswith("layer  ") for line in lines) == 3
    assert [line for line in lines if "convscope, " in line] == []
    drawn = set(re.findall(r"convscope, ([a-z -]+[a-z])", written.decode()))
    assert drawn >= {"held-out pass"} if bar != "none" else not drawn


def trainer_with(bar: TQDMProgressBar | None) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False,
        enable_progress_bar=bar is not None, callbacks=[] if bar is None else [bar],
    )  # fmt: skip


def told(trainer: L.Trainer) -> Progress:
    waiting = Progress()
    with waiting.waiting(trainer):
        waiting.phase("a long wait", 4)
        waiting.advance(2)
    return waiting


def test_a_wait_is_shown_once_it_is_long(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 1e9)
    told(trainer_with(TQDMProgressBar()))
    assert "a long wait" not in capsys.readouterr().out
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    told(trainer_with(TQDMProgressBar()))
    assert "convscope, a long wait" in capsys.readouterr().out


@pytest.mark.parametrize("bar", [None, TQDMProgressBar(refresh_rate=0)], ids=["no bar", "a bar that is switched off"])
def test_where_the_user_has_no_bar_there_is_none(bar: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    told(trainer_with(bar))
    assert "a long wait" not in capsys.readouterr().out


class Gone:
    """A terminal that takes nothing."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        raise RuntimeError("gone")

    def flush(self) -> None:
        raise RuntimeError("gone")


def test_a_terminal_that_is_gone_costs_the_progress_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setattr(sys, "stdout", Gone())
    waiting = told(trainer_with(TQDMProgressBar()))
    assert waiting._broken


def test_handlers_are_as_they_were_after_a_block_that_failed() -> None:
    before = warnings.showwarning, dict(vars(logging.lastResort))
    with suppress(KeyError), above_the_bar(trainer_with(TQDMProgressBar())):
        assert "emit" in vars(logging.lastResort)
        raise KeyError
    assert (warnings.showwarning, dict(vars(logging.lastResort))) == before


def test_a_check_leaves_the_users_bar_as_it_is(fit: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    bar = TQDMProgressBar()
    fit([convscope.LayerProbe(), bar], enable_progress_bar=True, num_sanity_val_steps=0)
    assert "convscope, held-out pass" in capsys.readouterr().out
    assert (bar.train_progress_bar.n, bar.train_progress_bar.total) == (4, 4)
    assert len(type(bar.train_progress_bar)._instances) == 0  # every bar is closed, ours too
