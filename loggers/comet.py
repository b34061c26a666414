"""Comet: pictures, histograms and texts as its own media, online and offline."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from convscope.loggers.backend import Backend, Pixels, finite, is_a


class CometBackend(Backend):
    """Writes to the experiment of Lightning's ``CometLogger``.

    Args:
        logger: The ``CometLogger``.
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    @classmethod
    def of(cls, logger: Any) -> Backend | None:
        return cls(logger) if is_a(logger, "CometLogger") else None

    def histogram(self, tag: str, values: npt.ArrayLike, step: int) -> None:
        kept = finite(values)
        if kept.size:
            self._logger.experiment.log_histogram_3d(kept.tolist(), name=tag, step=step)

    def image(self, tag: str, array: Pixels, step: int) -> None:
        from PIL import Image

        self._logger.experiment.log_image(Image.fromarray(array), name=tag, step=step)

    def text(self, tag: str, markdown: str, step: int) -> None:
        self._logger.experiment.log_text(markdown, step=step, metadata={"tag": tag})
