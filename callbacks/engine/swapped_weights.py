"""Notice of weights that another callback puts in place for a validation alone."""

from __future__ import annotations

import lightning.pytorch as pl
import torch

from convscope.callbacks.engine import bridge
from convscope.callbacks.engine.findings import Moment
from convscope.callbacks.engine.notices import Notices


class SwappedWeights:
    """Compares the weights that a check after a validation measured with those with which training goes on."""

    def __init__(self, notices: Notices) -> None:
        self._notices, self._said = notices, False
        self._seen: dict[str, torch.Tensor] = {}

    def remember(self, trainer: pl.Trainer, pl_module: pl.LightningModule, when: Moment) -> None:
        """Keep two of the weights that a check measures."""
        if when.trigger == "validation" and not self._said and not bridge.replaces_weights(trainer):
            weights = dict(pl_module.named_parameters())
            names = [name for name, weight in weights.items() if weight.requires_grad] or list(weights)
            self._seen = {name: _local(weights[name]).clone() for name in {*names[:1], *names[-1:]}}

    def look_again(self, pl_module: pl.LightningModule) -> None:
        """Compare the weights before a training batch with those measured, by name, since all else may be changed."""
        seen, self._seen = self._seen, {}
        weights = {name: _local(weight) for name, weight in pl_module.named_parameters() if name in seen}
        if any(_differ(weights[name], seen[name]) for name in weights):
            self._say()

    def _say(self) -> None:
        self._said = True
        self._notices.warn(
            "training goes on with other weights than were measured after validation, so something changes "
            "them around a validation (a callback of averaged weights?): checks after validation measure the weights "
            "that it puts in place, checks at the start and at steps the weights in training"
        )


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor.detach()  # a sharded one


def _differ(weights: torch.Tensor, measured: torch.Tensor) -> bool:
    """Return whether the same parameter has other values; a parameter of another kind is not the same."""
    same_kind = [weights.shape, weights.dtype, weights.device] == [measured.shape, measured.dtype, measured.device]
    # NaN is not equal to itself: weights that have become NaN are no others.
    return same_kind and not torch.equal(weights.nan_to_num(), measured.nan_to_num())
