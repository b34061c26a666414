"""Features and targets of all held-out samples, in one order however they came in: the state of every probe."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convscope.metrics._base import GatheringMetric, canonical_order


class FeatureStore(GatheringMetric):
    """Collects rows of features and of targets, and gives them back in the order of their index, each once.

    Features are kept in float32 whatever they came in, so that a rank that saw none can take part in a gather.
    """

    features: list[Tensor]
    targets: list[Tensor]

    def __init__(self, target_dtype: torch.dtype, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._add_lists(features=torch.float32, targets=target_dtype, index=torch.int64)
        self._widths: tuple[int, int] | None = None  # columns of features and targets

    def reset(self) -> None:
        """Forget everything collected."""
        super().reset()
        self._widths = None

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._widths = None

    def numbers(self) -> Tensor:
        """``(N,)`` the index of each row of the result, over all ranks; like compute, to be called on every rank."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync):
            index = self._joined("index")
        known = index[index >= 0]
        return torch.unique(known) if len(known) else torch.arange(len(index), device=index.device)

    def _collect(self, features: Tensor, targets: Tensor, index: Tensor | None) -> None:
        """Add ``(N, F)`` features and ``(N, T)`` targets, or ``(N,)`` of one column."""
        self._keep_widths(features.shape[1], targets.shape[1] if targets.ndim > 1 else 1)
        self._append_index(index, len(features))
        self._append("features", features)
        self._append("targets", targets)

    def _canonical(self) -> tuple[Tensor, Tensor]:
        index = self._joined("index")
        if len(index) == 0:
            raise ValueError("A probe needs samples, got none. Pass a held-out set that is not empty.")
        order = canonical_order(index)
        features, targets = (self._joined(name).reshape(len(index), -1) for name in ("features", "targets"))
        return features[order], targets[order]

    def _keep_widths(self, *widths: int) -> None:
        if self._widths is None and (samples := len(self._joined("index"))):  # states that were loaded, or merged
            self._widths = len(self._joined("features")) // samples, len(self._joined("targets")) // samples
        for name, known, width in zip(("features", "targets"), self._widths or widths, widths, strict=True):
            if known != width:
                raise ValueError(
                    f"The {name} must have {known} columns as in earlier chunks, got {width}. "
                    "Use one metric for each layer."
                )
        self._widths = widths[0], widths[1]
