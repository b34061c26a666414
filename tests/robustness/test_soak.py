"""Three hundred epochs with everything on: no memory, thread or file handle is added by the hundredth check."""

from __future__ import annotations

import gc
import os
import threading
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
from lightning.pytorch.loggers import TensorBoardLogger

import convscope
from convscope.loggers import correlation_heatmap
from tests.callbacks.conftest import loaders
from tests.compatibility.cells import observers, small

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc, which Linux has")
EPOCHS = 300


def resident() -> float:
    """MiB of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


class Meter(L.Callback):
    """What the process holds at the end of every epoch."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, int, int, float]] = []
        self.sizes: list[int] = []

    def on_train_epoch_end(self, trainer: L.Trainer, *args: Any) -> None:
        gc.collect()
        seconds = float(trainer.callback_metrics["zz_convscope/seconds"])
        self.rows.append((resident(), threading.active_count(), len(os.listdir("/proc/self/fd")), seconds))
        self.sizes.append(sum(file.stat().st_size for file in Path(trainer.log_dir).glob("events.*")))


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_three_hundred_epochs_of_everything(tmp_path: Path) -> None:
    correlation_heatmap(np.eye(2), "so that matplotlib has opened its fonts, which stay open")
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    meter, began = Meter(), time.perf_counter()
    callbacks = [*observers(), convscope.DriftAlert(), meter]
    trainer = L.Trainer(
        max_epochs=EPOCHS, accelerator="cpu", callbacks=callbacks, logger=TensorBoardLogger(tmp_path, name="run"),
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(small(), *loaders())
    memory, threads, files, seconds = np.array(meter.rows).T
    growth = np.polyfit(np.arange(20, EPOCHS), memory[20:], 1)[0]
    written = (meter.sizes[-1] - meter.sizes[19]) / (EPOCHS - 20) / 1024
    print(
        f"{time.perf_counter() - began:.0f} s; memory {memory[20]:.1f} MiB at epoch 20, {memory[-1]:.1f} at the end, "
        f"{1024 * growth:.1f} KiB an epoch; a check {np.median(seconds[20:60]):.3f} s, at the end "
        f"{np.median(seconds[-40:]):.3f} s; {written:.0f} KiB a check"
    )
    assert memory[-20:].max() < memory[20:40].max() + 12
    assert growth < 0.04  # MiB an epoch: the history of learning maps, and alerts
    assert threads[20:].max() == threads[20]
    assert files[20:].max() == files[20]
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == before
