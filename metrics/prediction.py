"""Read-out of the model's own output, the last point of a prediction that forms over depth."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convscope.metrics.functional._precision import as_double
from convscope.metrics.functional._validation import check_features, check_finite
from convscope.metrics.functional.scores import Scorer, encode_classes
from convscope.metrics.probe import FeatureProbe


class OutputReadout(FeatureProbe):
    """Predictions of the model itself, in the same order of samples as a probe's result.

    Nothing is fitted. ``compute`` judges the outputs of the classes present as a probe is judged;
    :meth:`log_probabilities` gives the whole distribution.

    Args:
        kwargs: passed to :class:`torchmetrics.Metric`.

    Update takes outputs ``(N, K)``, class indices ``(N,)`` and optionally indices ``(N,)``. Outputs are logits, a
    single one for two classes, or probabilities: rows that are not negative and sum to one.

    Raises:
        ValueError: if shapes or types are wrong, or a class index is not below K; in compute, if there is no sample,
            or an output is NaN or Inf.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> readout = OutputReadout()
        >>> readout.update(torch.tensor([[0.5, 0.5], [0.2, 0.8]]), torch.tensor([0, 1]), torch.tensor([7, 3]))
        >>> readout.numbers().tolist(), readout.log_probabilities().exp()[:, 1].tolist()
        ([3, 7], [0.800000011920929, 0.5])
    """

    fewest = 1

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(n_controls=1, seed=0, **kwargs)

    def update(self, features: Tensor, target: Tensor, index: Tensor | None = None) -> None:
        """Add a chunk of outputs.

        Raises:
            ValueError: if shapes or types are wrong, or a class index is not below K.
        """
        check_features(features)
        outputs = torch.cat([torch.zeros_like(features), features], dim=1) if features.shape[1] == 1 else features
        if len(target) and int(target.max()) >= outputs.shape[1]:
            raise ValueError(
                f"The target holds class {int(target.max())}, but the model has {outputs.shape[1]} outputs: they are "
                "not one logit per class. Read the output like any other layer instead, with `output='readout'`."
            )
        super().update(outputs, target, index)

    def log_probabilities(self) -> Tensor:
        """``(N, K)`` float64, samples in order of their index, over all ranks; to be called on every rank."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync):
            outputs = as_double(self._canonical()[0])
        sums = outputs.sum(dim=1)
        if bool((outputs >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
            return outputs.clamp(min=1e-12).log()
        return outputs.log_softmax(dim=1)

    def _scorer(self, features: Tensor, target: Tensor) -> Scorer:
        check_finite("outputs", features)
        return lambda labels: as_double(features)[:, encode_classes(labels)[0]]
