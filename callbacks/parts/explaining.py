"""One layer's explainer at one check: its training and its measurements."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

from convscope.callbacks.engine.observer import Plan
from convscope.callbacks.parts.feature_maps import maps_of
from convscope.callbacks.parts.landmarks import LandmarkPoints
from convscope.callbacks.parts.moved_images import moved_subject, moves
from convscope.capture.data.heldout import HeldOut
from convscope.capture.network.trace import Layer
from convscope.capture.replacement import Replacement
from convscope.capture.state.isolation import isolated, preserved_random_state
from convscope.explainers.distillation import DistilSettings, distil, reconstruction_error
from convscope.explainers.two_track import ExplainerNetwork
from convscope.metrics.functional import (
    equivariance_proxy,
    filter_loss,
    location_instability,
    part_maps,
    peaks,
)
from convscope.metrics.functional.parts import part_side

_TRAINED_SIDE = 7
_TOGETHER = 10  # steps after which processes agree to go on
_MARGIN = 1.5  # times the slowest step: time left for the steps until the clock is read again


class Clock:
    """Ends a training in time, on every process after the same step: the main process's clock decides.

    Args:
        seconds: The budget.
        heldout: The held-out set, whose processes stay in step.
    """

    def __init__(self, seconds: float, heldout: HeldOut) -> None:
        self._seconds, self._heldout = seconds, heldout
        self._alone = len(heldout.gather(None)) == 1
        self._began = self._last = time.perf_counter()
        self._slowest = 0.0

    def __call__(self, step: int) -> bool:
        """Return whether there is time for the steps until the clock is read again."""
        now = time.perf_counter()
        self._slowest, self._last = max(self._slowest, now - self._last), now
        if self._alone or step % _TOGETHER == 0:
            ahead = self._slowest * _MARGIN * (1 if self._alone else _TOGETHER)
            return bool(self._heldout.from_main(now - self._began + ahead <= self._seconds))
        return True


@dataclass
class Split:
    """Rows of the samples whose features are kept, in the order of their numbers.

    Attributes:
        numbers: ``(N,)`` of all of them.
        fitted: ``(N,)`` True for those that the explainer is trained on; measurements use the others.
        truth: ``(N,)`` class of each, negative where it has none.
    """

    numbers: torch.Tensor
    fitted: torch.Tensor
    truth: torch.Tensor

    @property
    def judged(self) -> torch.Tensor:
        """Rows of the samples that measurements use."""
        return ~self.fitted


@contextmanager
def own_training(device: torch.device, seed: int) -> Iterator[None]:
    """A block with gradients, in float32, and with its own random streams, whatever is set around it."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(torch.autocast(device.type, enabled=False))
            stack.enter_context(preserved_random_state(seed))
            yield
    finally:
        torch.set_default_dtype(default)


def trained(
    network: ExplainerNetwork | None,
    features: torch.Tensor,
    target: torch.Tensor,
    filters: int | None,
    settings: DistilSettings,
    go_on: Callable[[int], bool],
) -> tuple[ExplainerNetwork, int]:
    """A new explainer, or the last one trained further, and the number of steps made."""
    with own_training(features.device, settings.seed):
        wanted = ExplainerNetwork(features.shape[1], features.shape[2:], target.shape[1:], filters)
        if network is None or network.config != wanted.config:  # a checkpoint of a run with other settings
            network = wanted
        network.to(features.device).adapt(features, target)
        steps = distil(network, features, target, settings, part_loss, go_on)
    return network, steps


def part_loss(maps: torch.Tensor) -> torch.Tensor:
    """Filter loss ``(F,)`` of a batch ``(N, F, H, W)``, on maps of at most 7 × 7: a fraction of the time of 14 × 14."""
    side = part_side(maps.shape[2], maps.shape[3], _TRAINED_SIDE)
    return filter_loss(part_maps(maps, side), "total")


def applied(network: ExplainerNetwork, features: torch.Tensor, at_once: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Reconstructed next features and part maps of all samples."""
    with own_training(features.device, 0), torch.no_grad():
        parts = features.split(at_once)
        return torch.cat([network(part) for part in parts]), torch.cat([network.part_maps(part) for part in parts])


def judged_error(found: torch.Tensor, target: torch.Tensor, split: Split) -> float:
    """Normalised reconstruction error on the samples that the explainer was not trained on."""
    rows = split.judged.to(found.device)
    return reconstruction_error(found[rows], target[rows])


def predictions(plan: Plan, sample: HeldOut, target: Layer, found: torch.Tensor, split: Split) -> torch.Tensor:
    """Predicted classes ``(N,)`` with the reconstruction instead of the target's activation; -1 for fitted samples.

    Every process must call it: each runs its own samples.
    """
    if target.is_output:
        predicted = plan.outputs.predicted(found).cpu()
        return predicted.masked_fill(split.fitted, -1)
    place = {number: row for row, number in enumerate(split.numbers.tolist())}
    here: dict[int, int] = {}
    run = Replacement(plan.subject, target, plan.heldout.seed)
    with isolated(plan.subject.module, seed=plan.heldout.seed, gradients=False):
        for chunk in sample.chunks(plan.chunk_size):
            rows = torch.tensor([place.get(number, 0) for number in chunk.index.tolist()], device=found.device)
            classes = plan.outputs.predicted(run.outputs(chunk.inputs, found[rows])).tolist()
            if not chunk.padding:
                here |= dict(zip(chunk.index.tolist(), classes, strict=True))
    known = {number: label for part in plan.heldout.gather(here) for number, label in part.items()}
    return torch.tensor([known.get(number, -1) for number in split.numbers.tolist()])


def agreement(replaced: torch.Tensor, own: torch.Tensor, split: Split) -> dict[str, float]:
    """Share of predictions that stay the same, and the change of the error rate, on samples not trained on."""
    rows = split.judged & (replaced >= 0)
    found = {"agreement": float((replaced[rows] == own[rows]).double().mean())}
    rows &= split.truth >= 0
    if bool(rows.any()):
        truth = split.truth[rows]
        found["error_change"] = float((own[rows] == truth).double().mean() - (replaced[rows] == truth).double().mean())
    return found


def instability(
    original: torch.Tensor,
    explained: torch.Tensor,
    points: LandmarkPoints,
    plan: Plan,
    split: Split,
    size: tuple[int, int],
) -> dict[str, float]:
    """Location instability of the explainer's part filters and of the layer's own, on samples not trained on."""
    numbers = split.numbers[split.judged]
    mine = {n: points.of(torch.tensor([n]))[0] for n in numbers.tolist() if n in points}
    known = {number: point for part in plan.heldout.gather(mine) for number, point in part.items()}
    landmarks = torch.stack([known[number] for number in numbers.tolist()]).to(original.device)
    rows = split.judged.to(original.device)
    return {
        "instability": float(location_instability(peaks(explained[rows]), landmarks, size).nanmean()),
        "original_instability": float(location_instability(peaks(original[rows]), landmarks, size).nanmean()),
    }


def instability_proxy(
    network: ExplainerNetwork, layer: Layer, plan: Plan, sample: HeldOut, size: tuple[int, int]
) -> dict[str, float]:
    """The same without landmarks: how well peaks follow images that are moved, with one pass per move."""
    before = maps_of(plan.subject, sample, [layer], plan.chunk_size).of(layer)
    found: dict[str, list[torch.Tensor]] = {"instability_proxy": [], "original_instability_proxy": []}
    for move in moves(*size):
        after = maps_of(moved_subject(plan.subject, move), sample, [layer], plan.chunk_size).of(layer)
        shift = move.rows / size[0], move.columns / size[1]
        first, second = (peaks(applied(network, each, plan.chunk_size)[1]) for each in (before, after))
        found["instability_proxy"].append(equivariance_proxy(first, second, shift, move.flipped, size))
        own = equivariance_proxy(peaks(before), peaks(after), shift, move.flipped, size)
        found["original_instability_proxy"].append(own)
    return {name: float(torch.stack(values).nanmean()) for name, values in found.items()}


def likest(explained: torch.Tensor, original: torch.Tensor) -> list[int]:
    """For each filter of the explainer, the layer's filter whose peak values over images are most correlated."""
    one, other = (_standardised(maps.flatten(2).amax(2).double()) for maps in (explained, original))
    return [int(best) for best in (one.T @ other).argmax(1)]


def _standardised(values: torch.Tensor) -> torch.Tensor:
    return (values - values.mean(0)) / values.std(0, correction=0).clamp(min=1e-12)
