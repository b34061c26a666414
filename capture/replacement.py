"""Forward from a layer with given features in the place of its activation."""

from __future__ import annotations

from typing import Any

import torch

from convscope.capture.intervention import Intervention
from convscope.capture.network.trace import Layer
from convscope.capture.observation import Subject


class Replacement(Intervention):
    """Runs a network with features of one's own after a layer; what follows is run as it is.

    Args:
        subject: The network.
        layer: A layer of it, as traced.
        seed: Of the random streams in each pass.
    """

    def __init__(self, subject: Subject, layer: Layer, seed: int = 0) -> None:
        super().__init__(subject, layer, torch.zeros(layer.channels), seed)
        self._features = torch.empty(0)

    def outputs(self, inputs: Any, features: torch.Tensor) -> torch.Tensor:
        """Outputs ``(n, K, *)`` of inputs whose activation at the layer is taken to be ``features`` ``(n, C, *S)``."""
        self._features = features
        return self.logits(inputs, torch.zeros(1, self._layer.channels, dtype=torch.bool))[0]

    def _mixed(self, tensor: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        return self._layer.unfold(self._features.to(tensor.device, tensor.dtype)).reshape(tensor.shape)
