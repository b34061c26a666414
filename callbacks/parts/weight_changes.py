"""Size and updates of each layer's weights since the last check; layers that stand still though they should learn."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from convscope.callbacks.parts.reading import read
from convscope.capture.network.modules import named_modules
from convscope.capture.network.trace import Layer
from convscope.capture.network.weights import learning_weights
from convscope.metrics.functional import standing_still
from convscope.metrics.functional.updates import weight_updates


class WeightChanges:
    """Copies of the observed layers' weights at their last check, on the CPU.

    A checkpoint holds those copies only where they differ from the weights in it, which they do not when it is saved
    right after a check, as at the end of an epoch.
    """

    def __init__(self) -> None:
        self._before: dict[str, Tensor | None] = {}  # None: the weights that the checkpoint itself brings
        self._learned: set[str] = set()
        self._modules: dict[str, nn.Module | None] = {}
        self._now: dict[str, Tensor] = {}
        self._found: dict[str, dict[str, float]] = {}
        self._moved: set[str] = set()

    def resume(self, model: nn.Module) -> None:
        """Take from the restored model the weights that the checkpoint did not hold twice."""
        modules = dict(named_modules(model))
        for name in [name for name, weights in self._before.items() if weights is None]:
            found = learning_weights(modules.get(name, modules.get(name.split("@")[0])))
            if found is None:
                del self._before[name]
            else:
                self._before[name] = found[0]

    def measure(self, layers: Iterable[Layer]) -> None:
        """Compare all layers' weights with the last check's. The results are kept until the next call."""
        self._modules = {layer.name: layer.module for layer in layers}
        read_weights = {
            name: found for name, module in self._modules.items() if (found := learning_weights(module)) is not None
        }
        norms = read({name: torch.linalg.vector_norm(weights) for name, (weights, _) in read_weights.items()})
        # Weights that hold NaN would make every distance NaN; the layer waits until it is finite again.
        self._now = {name: weights for name, (weights, _) in read_weights.items() if _finite(weights, norms[name])}
        known = {
            name: before for name, weights in self._now.items() if (before := self._last(name, weights)) is not None
        }
        updates = dict(zip(known, weight_updates([(self._now[n], before) for n, before in known.items()]), strict=True))
        ratios = {name: ratio for name, (ratio, _) in updates.items()}
        turns = {name: turn for name, (_, turn) in updates.items()}
        # Whether a layer stands still is judged against the other layers, so all turns must be known first.
        still = dict(zip(turns, standing_still(torch.tensor(list(turns.values()))).tolist(), strict=True))
        # A layer that was frozen after it had learned no longer asks for gradients, but should be noticed.
        should_learn = {name for name in turns if read_weights[name][1] or name in self._learned}
        # Taken into `_learned` layer by layer in `scalars`: a layer whose check failed has not been seen to learn.
        self._moved = {name for name in should_learn if turns[name] > 0 and not still[name]}
        self._found = {name: {"weight_norm": norms[name]} for name in self._now}
        for name, ratio in ratios.items():
            if math.isfinite(ratio):
                self._found[name]["update_ratio"] = ratio
        for name in should_learn:
            self._found.setdefault(name, {})["not_learning"] = float(still[name])

    def scalars(self, layer: str) -> dict[str, float]:
        """``weight_norm``, ``update_ratio`` and ``not_learning`` of one layer, as far as known; closes its check."""
        # The new weights replace the old only here: a layer that fails in a check is compared with the one before it.
        if layer in self._now:
            self._before[layer] = self._now.pop(layer)
        self._learned |= self._moved & {layer}
        return self._found.get(layer, {})

    def _last(self, name: str, weights: Tensor) -> Tensor | None:
        before = self._before.get(name)
        return before if before is not None and before.shape == weights.shape else None

    def state_dict(self) -> dict[str, Any]:
        """The copies, None in place of those that the model still equals."""
        return {"before": {name: self._unless_equal(name) for name in self._before}, "learned": sorted(self._learned)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint; :meth:`resume` completes it."""
        self._before, self._learned = dict(state["before"]), set(state["learned"])

    def _unless_equal(self, name: str) -> Tensor | None:
        before, found = self._before[name], learning_weights(self._modules.get(name))
        same = before is not None and found is not None and torch.equal(before, found[0])
        return None if same else before


def _finite(weights: Tensor, norm: float) -> bool:
    return math.isfinite(norm) or bool(torch.isfinite(weights).all())  # of large weights, the norm has overflowed
