"""Weights & Biases: pictures, histograms and texts as its own media, in the row of their check."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from convscope.loggers.backend import Backend, Pixels, finite, is_a

BINS = 64


class WandbBackend(Backend):
    """Writes to the run of Lightning's ``WandbLogger``, online, offline or disabled.

    Media of a check are held back (``commit=False``) until its scalars follow, so that both are one row of the run's
    history, on the axis ``trainer/global_step`` that the logger itself uses.

    Args:
        logger: The ``WandbLogger``.
    """

    def __init__(self, logger: Any) -> None:
        import wandb

        self._logger, self._wandb = logger, wandb

    @classmethod
    def of(cls, logger: Any) -> Backend | None:
        return cls(logger) if is_a(logger, "WandbLogger") else None

    def histogram(self, tag: str, values: npt.ArrayLike, step: int) -> None:
        kept = finite(values)
        if kept.size:
            self._log(tag, self._wandb.Histogram(np_histogram=np.histogram(kept, bins=BINS)), step)

    def image(self, tag: str, array: Pixels, step: int) -> None:
        self._log(tag, self._wandb.Image(array), step)

    def text(self, tag: str, markdown: str, step: int) -> None:
        self._log(tag, self._wandb.Table(columns=["step", "text"], data=[[step, markdown]]), step)

    def _log(self, tag: str, value: Any, step: int) -> None:
        self._logger.experiment.log({tag: value, "trainer/global_step": step}, commit=False)
