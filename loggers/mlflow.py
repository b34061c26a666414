"""MLflow: pictures, histograms and texts as artifacts, and names that its rules allow."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from convscope.loggers.backend import Backend, Pixels, finite, is_a
from convscope.loggers.mlflow_names import LONGEST, mlflow_name

BINS = 64


class MlflowBackend(Backend):
    """Writes to the run of Lightning's ``MLFlowLogger``.

    Pictures are time-stepped images (the run's page has a slider for them), texts the artifacts
    ``texts/<tag>/step=<step>.md``, histograms ``histograms/<tag>/step=<step>.json`` with counts and edges of 64 bins.

    Args:
        logger: The ``MLFlowLogger``.
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._long: dict[str, str] = {}

    @classmethod
    def of(cls, logger: Any) -> Backend | None:
        return cls(logger) if is_a(logger, "MLFlowLogger") else None

    def histogram(self, tag: str, values: npt.ArrayLike, step: int) -> None:
        kept = finite(values)
        if kept.size:
            counts, edges = np.histogram(kept, bins=BINS)
            found = {"step": step, "counts": counts.tolist(), "edges": edges.tolist()}
            self._client.log_dict(self._logger.run_id, found, f"histograms/{mlflow_name(tag)}/step={step}.json")

    def image(self, tag: str, array: Pixels, step: int) -> None:
        self._client.log_image(self._logger.run_id, array, key=mlflow_name(tag), step=step)

    def text(self, tag: str, markdown: str, step: int) -> None:
        self._client.log_text(self._logger.run_id, markdown, f"texts/{mlflow_name(tag)}/step={step}.md")

    def scalar_tag(self, tag: str) -> str:
        """The name of a metric; names too long for MLflow are listed in the artifact ``convscope/long_names.json``."""
        name = mlflow_name(tag)
        if len(name) == LONGEST and self._long.get(name) != tag:
            self._long[name] = tag
            self._client.log_dict(self._logger.run_id, self._long, "convscope/long_names.json")
        return name

    @property
    def _client(self) -> Any:
        return self._logger.experiment
