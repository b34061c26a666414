"""One check of multi-scale interpretation: fit both scales to the copies, then switch super-pixels off in order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from convscope.callbacks.parts.explained_images import ExplainedImages
from convscope.callbacks.parts.explanations import Explanations
from convscope.callbacks.parts.switched_copies import SwitchedCopies, View, require_the_same
from convscope.capture.data.heldout import Chunk
from convscope.explainers.switches import distances, draw_switches, nearness, random_ranks, share_on
from convscope.metrics import MultiScaleFit, SwitchingAreas
from convscope.metrics.functional import MultiScaleResult, TwoScaleWeights, common_focus

_SHARES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
_RANDOM = 2  # random orders, whose areas are averaged
_ORDERS = 2 + _RANDOM  # by importance, by gradient × activation, at random
_INNER = len(_SHARES) - 2
SWITCHINGS = 1 + 2 * _ORDERS * _INNER
"""Copies of an image by which an explanation is judged: with nothing on, and with shares off and on in each order."""
_PLACES = 8  # a side, at which the focus is looked for


@dataclass(frozen=True)
class FitSettings:
    """How the model of two scales is fitted; as in :class:`~convscope.MultiScaleInterpretation`."""

    samples: int
    nonzero: float
    balance: float
    seed: int


@dataclass(frozen=True)
class TwoScales:
    """What one check found.

    Attributes:
        result: Importances and fits.
        explanations: Of all images.
        areas: Areas under the curves by quantity, ``"deletion"``, ``"insertion_random"``, …
        focus: See :func:`~convscope.metrics.functional.common_focus`.
    """

    result: MultiScaleResult
    explanations: Explanations
    areas: dict[str, float]
    focus: float

    def scalars(self) -> dict[str, float]:
        """What is logged of this check alone."""
        result, weights = self.result, self.result.weights
        known = self.explanations.chosen >= 0
        return {
            "r2_coarse": float(result.coarse_r2[known].nanmean()),
            "r2_fine": float(result.fine_r2[known].nanmean()),
            "nonzero_coarse": float(result.coarse_nonzero[known].mean()),
            "nonzero_fine": float(result.fine_nonzero[known].mean()),
            "constraint_residual": float(weights.constraint_residual.max()),
            "optimality": float(weights.optimality.max()),
            "probability": float(self.explanations.probability[known].mean()),
            "focus": self.focus,
            **self.areas,
            "deletion_gain": self.areas["deletion_random"] - self.areas["deletion"],
        }


def explained(
    copies: SwitchedCopies, images: ExplainedImages, settings: FitSettings, start: TwoScaleWeights | None
) -> TwoScales:
    """Explain every image; every process must call it, and all find the same.

    Raises:
        ValueError: A layer, or an output, cannot be used; no image has a label.
    """
    views = copies.views()
    told: list[dict[int, tuple[int, float, bool]]] = copies.gather(
        {place: (view.chosen, view.probability, view.gradient is not None) for place, view in views.items()}
    )
    everyone = {place: what for part in told for place, what in part.items()}
    if not everyone:
        raise ValueError("none of the images to explain has a label that counts; give target='predicted'")
    with copies.block():
        result = _fitted(copies, images, views, settings, start)
        areas = _areas(copies, images, views, result, settings.seed)
    if not all(with_gradient for *_, with_gradient in everyone.values()):
        areas = {name: area for name, area in areas.items() if not name.endswith("gradient")}
    said = [everyone.get(place, (-1, 0.0, False)) for place in range(len(images))]
    explanations = Explanations(
        "",
        result.coarse.float(),
        result.fine.float(),
        torch.tensor([chosen for chosen, *_ in said]),
        torch.tensor([probability for _, probability, _ in said]),
    )
    shares = torch.stack([images.shares(place, result.fine[place], _PLACES) for place in sorted(everyone)])
    return TwoScales(result, explanations, areas, float(common_focus(shares)))


def _fitted(
    copies: SwitchedCopies,
    images: ExplainedImages,
    views: dict[int, View],
    settings: FitSettings,
    start: TwoScaleWeights | None,
) -> MultiScaleResult:
    fit = MultiScaleFit(len(images), *images.most, settings.nonzero, settings.balance, start).to(copies.device)
    for place, chunk in copies.each():
        view = views.get(place)
        number, (_, count) = int(chunk.index[0]), images.counts(place)
        on = draw_switches(settings.samples, count, settings.seed, number)
        output = copies.probabilities(place, chunk, on, view)
        if view is None:  # nothing to explain, or only there to keep processes in step
            continue
        require_the_same(view, float(output[0]), copies.precision)
        segments = images.images[place].segments
        weight = nearness(on, distances(*copies.whole_and_off(chunk), segments.fine, count))
        fit.describe(place, segments.membership, view.coarse, view.fine)
        coarse = share_on(on, segments.membership) * view.coarse
        fit.update(place, coarse, on.double() * view.fine, output, weight)
    found: MultiScaleResult = fit.compute()
    return found


def _areas(
    copies: SwitchedCopies, images: ExplainedImages, views: dict[int, View], result: MultiScaleResult, seed: int
) -> dict[str, float]:
    areas = SwitchingAreas(_ORDERS, _SHARES).to(copies.device)
    for place, chunk in copies.each():
        view = views.get(place)
        ranks = _ranks(place, chunk, images, view, result, seed)
        output = copies.probabilities(place, chunk, _switchings(ranks), view)
        if view is not None:
            areas.update(_curves(output, view.probability))
    found = areas.compute().cpu()
    rows = {"": found[0], "_gradient": found[1], "_random": found[2:].mean(0)}
    return {f"{what}{order}": float(row[i]) for order, row in rows.items() for i, what in enumerate(_WHAT)}


_WHAT = ("deletion", "insertion")


def _ranks(
    place: int, chunk: Chunk, images: ExplainedImages, view: View | None, result: MultiScaleResult, seed: int
) -> Tensor:
    """The place of each fine super-pixel in each order ``(orders, q)``."""
    coarse, count = images.counts(place)
    random = random_ranks(_ORDERS, count, seed, int(chunk.index[0]))
    if view is None:
        return random
    # Most fine importances are zero: among these the coarse scale decides, and not where they lie in the image.
    parent = images.images[place].segments.membership @ result.coarse[place, :coarse]
    order = parent.argsort(descending=True, stable=True)
    own = order[result.fine[place, :count][order].argsort(descending=True, stable=True)]
    orders = [own, own if view.gradient is None else view.gradient.argsort(descending=True, stable=True)]
    return torch.cat([torch.stack(orders).argsort(1), random[: _ORDERS - 2]])


def _switchings(ranks: Tensor) -> Tensor:
    """Which super-pixels are on ``(SWITCHINGS, q)``: none, then for each order shares off, then shares on."""
    count = ranks.shape[1]
    removed = [round(share * count) for share in _SHARES[1:-1]]
    off = torch.stack([ranks < most for most in removed], 1)  # (orders, shares, q)
    both = torch.stack([~off, off], 1)  # on: (orders, deletion or insertion, shares, q)
    return torch.cat([torch.zeros(1, count, dtype=torch.bool), both.flatten(0, 2)])


def _curves(output: Tensor, whole: float) -> Tensor:
    """Curves ``(orders, 2, shares)`` with their ends, the image as it is and nothing of it."""
    none, inner = output[:1], output[1:].view(_ORDERS, 2, _INNER)
    curves = torch.empty(_ORDERS, 2, len(_SHARES), dtype=output.dtype)
    curves[..., 1:-1] = inner
    curves[:, 0, 0] = curves[:, 1, -1] = whole
    curves[:, 0, -1] = curves[:, 1, 0] = none
    return curves
