"""Filter loss of interpretable convolutions, added to the training loss."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch

from convscope._arguments import number, one_of
from convscope.callbacks.engine.hierarchies import Callback, MisconfigurationException
from convscope.capture.network.modules import named_modules
from convscope.explainers.interpretable import InterpretableConv
from convscope.metrics.functional import filter_loss, part_maps
from convscope.metrics.functional.parts import SCALES, LossScale


class FilterLoss(Callback):
    """Adds the filter loss of every :class:`~convscope.InterpretableConv` layer to the training loss.

    It adds ``weight`` times the sum over layers of the mean over filters of ``-MI(X; T)`` between a batch's maps and
    part templates. It is added as the backward begins, so that automatic optimization, accumulated gradients, loss
    scaling and several processes (each with its own batch, as for the loss itself) are right; maps larger than
    14 × 14 are max-pooled to that. Source: paper (Zhang, Wu and Zhu 2018, arXiv 1710.00935), with ``Z_T`` and ``p(x)``
    of the batch: give batches of at least a few dozen images.

    Unlike the callbacks that measure, this one changes training: that is its purpose.

    Args:
        weight: Weight of the filter loss, beside a training loss of weight 1; at least 0, which only logs.
        scale: ``"total"`` brings each filter's maps to one mean total before the loss (ours); ``"as_is"`` is the
            paper's. As they are, activations of a few units, usual in networks with normalisation layers, give almost
            no gradient, whatever the weight.

    Logged for each layer, as means over the epoch:
        ``filter_loss/<layer>``, nats, at most 0.

    Raises:
        ValueError: if ``weight`` is not such a number, or ``scale`` unknown; before training, a
            ``MisconfigurationException`` if there is no such layer, or the optimization is manual.
    """

    def __init__(self, weight: float = 0.1, scale: LossScale = "total") -> None:
        self.weight = number("weight", weight, least=0.0)
        self.scale: LossScale = one_of("scale", scale, SCALES)
        self._layers: dict[str, InterpretableConv] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the layers.

        Raises:
            MisconfigurationException: There is none, or the optimization is manual.
        """
        if stage != "fit":
            return
        if not pl_module.automatic_optimization:
            raise MisconfigurationException(
                "FilterLoss adds to the loss of automatic optimization, but this module optimizes by hand; add "
                "weight * filter_loss(part_maps(layer.maps)).mean() of convscope.metrics.functional to your own loss"
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the layers; not earlier, since a model may be configured or compiled after ``setup``.

        Raises:
            MisconfigurationException: There is none.
        """
        found = {id(module): (name, module) for name, module in named_modules(pl_module)}
        self._layers = {name: module for name, module in found.values() if isinstance(module, InterpretableConv)}
        if not self._layers:
            raise MisconfigurationException(
                f"FilterLoss found no InterpretableConv in {type(pl_module).__name__}; wrap a convolution of it, "
                "InterpretableConv(conv), or leave the callback out"
            )

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor) -> None:
        """Add to the loss in place: Lightning runs the backward of this very tensor."""
        found = {
            name: filter_loss(part_maps(layer.maps), self.scale).mean()
            for name, layer in self._layers.items()
            if layer.maps is not None and layer.maps.requires_grad
        }
        for layer in self._layers.values():
            layer.maps = None  # or its graph would live until the next batch
        if not found:
            return
        for name, value in found.items():
            pl_module.log(f"filter_loss/{name}", value.detach(), on_step=False, on_epoch=True)
        if self.weight > 0:
            added = self.weight * torch.stack([value.to(loss.device) for value in found.values()]).sum()
            loss.add_(_as_scaled(trainer, added / trainer.accumulate_grad_batches).to(loss.dtype))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let go of the layers."""
        self._layers = {}


def _as_scaled(trainer: pl.Trainer, value: torch.Tensor) -> torch.Tensor:
    """The loss, scaled as Lightning has scaled its own by now, if gradients are float16."""
    scaler: Any = getattr(trainer.precision_plugin, "scaler", None)
    return value if scaler is None else scaler.scale(value)
