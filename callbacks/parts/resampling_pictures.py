"""Pictures that input resampling draws, and the state that they keep from earlier checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from convscope.callbacks.engine.findings import Moment
from convscope.callbacks.parts.copy_scores import Choice, FilterView
from convscope.callbacks.parts.perturbed_copies import ChosenImage, PerturbedCopies
from convscope.loggers import Backend
from convscope.loggers._canvas import Picture
from convscope.loggers.names import short_labels
from convscope.loggers.resampling import MapRow, copies_grid, overlap_over_training, score_scatter
from convscope.metrics.functional import ResamplingScores

_NAME_LIMIT = 12
_CURVES = ("overlap", "overlap_chance", "overlap_limit")


class ResamplingPictures:
    """Overlap over training, filters by both scores, and copies of some images with the filters' maps on them.

    Attributes:
        shown: Numbers of the images that are shown; with several processes, images of the main one.
        views: Numbers of the copies on which they are shown.
    """

    def __init__(self) -> None:
        self.shown: list[int] = []
        self.views: list[int] = []
        self._samples: PerturbedCopies | None = None
        self._images: list[ChosenImage] = []
        self.restart()
        self.end()

    def look_at(self, samples: PerturbedCopies, examples: int, views: int) -> None:
        """Choose the images and copies that are shown."""
        self._samples, self._images = samples, samples.here[:examples]
        self.shown = [image.number for image in self._images]
        steps = np.linspace(0, samples.copies - 1, min(views, samples.copies))
        self.views = [int(step) for step in steps.round()]

    def add_layer(self, name: str, scores: ResamplingScores, choice: Choice, precision: torch.Tensor) -> None:
        """Take in one layer's mean scores ``(C,)`` and the precision that filters are chosen by."""
        self._layers[name] = (scores.influence, precision, choice)

    def remember(self, summary: Mapping[str, float], limit: float, when: Moment) -> None:
        """Add a check to the curve."""
        if "overlap" in summary:
            self._epochs.append(float(when.epochs_trained))
            for name, value in zip(_CURVES, (summary["overlap"], summary["overlap_chance"], limit), strict=True):
                self._curves[name].append(value)

    def draw(self, dashboard: Backend, name: str, when: Moment, filters: Mapping[int, Sequence[FilterView]]) -> None:
        """Write one check's pictures."""
        if self._epochs:
            overlap, chance, limit = (self._curves[each] for each in _CURVES)
            title = "Overlap of influence and precision"
            picture = overlap_over_training(self._epochs, overlap, chance, limit, title)
            dashboard.image(f"{name}/over_training", picture, when.step)
        for layer, (influence, precision, choice) in self._layers.items():
            chosen, title = (choice.influential.numpy(), choice.precise.numpy()), f"{layer}, {when.label}"
            picture = score_scatter(influence.numpy(), precision.numpy(), chosen[0], chosen[1], title)
            dashboard.image(f"{name}/scatter/{layer}", picture, when.step)
        for image in self._images:
            self._draw_example(dashboard, name, when, image, filters.get(image.number, ()))

    def _draw_example(
        self, dashboard: Backend, name: str, when: Moment, image: ChosenImage, views: Sequence[FilterView]
    ) -> None:
        if self._samples is None:
            return
        samples, base = self._samples, image.image.float()
        copies = [samples.of(image, range(view, view + 1))[0].float() for view in self.views]
        pictures = [_picture(copy, float(base.min()), float(base.max())) for copy in copies]
        labels = short_labels([view.layer for view in views], _NAME_LIMIT)
        rows = [
            MapRow(label, f"{view.filter}, {view.note}", [each.double().numpy() for each in view.maps])
            for label, view in zip(labels, views, strict=True)
        ]
        names = ["clean" if view == 0 else f"copy {view}" for view in self.views]
        title = f"sample {image.number}, {when.label}"
        dashboard.image(f"{name}/example/{image.number}", copies_grid(pictures, names, rows, title), when.step)

    def end(self) -> None:
        """Release the check's scores."""
        self._layers: dict[str, tuple[torch.Tensor, torch.Tensor, Choice]] = {}

    def restart(self) -> None:
        """Forget the checks of an earlier run."""
        self._epochs: list[float] = []
        self._curves: dict[str, list[float]] = {name: [] for name in _CURVES}

    def state(self) -> dict[str, Any]:
        """The curve, as plain lists."""
        return {"epochs": list(self._epochs), **{name: list(values) for name, values in self._curves.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self._epochs = list(state["epochs"])
        self._curves = {name: list(state[name]) for name in _CURVES}


def _picture(image: torch.Tensor, low: float, high: float) -> Picture:
    """``(H, W, 3)`` uint8 with the clean image's range of brightness; what lies outside is cut."""
    image = image if len(image) == 3 else image.mean(0, keepdim=True).expand(3, -1, -1)
    scaled = ((image - low) / max(high - low, 1e-12) * 255).clamp(0, 255)
    return np.asarray(scaled.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy(), dtype=np.uint8)
