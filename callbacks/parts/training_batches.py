"""Training batches of a check in numbers: inputs, targets, how far they belong together, repeated samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from convscope.callbacks.parts.since_last_check import SinceLastCheck
from convscope.capture.data.batches import adapt_batch

MOST_BATCHES = 64  # of a check, from its first on
MOST_SAMPLES = 64  # of a training batch
MOST_VALIDATION = 256  # samples of a validation batch, of which only coarse images are made
MOST_CHANNELS = 8
MOST_CLASSES = 32
MOST_PIXELS = 4096  # of a mask, on an even grid
CELLS = 4  # per side, of the grid that images are averaged over
FAMILY = "batches"


@dataclass(frozen=True)
class _Batch:
    epoch: int
    moments: torch.Tensor  # (channels, 4): means of x, x², x³ and of squared differences between neighbours
    cells: torch.Tensor  # (samples, channels × cells): the images, averaged over a grid
    targets: torch.Tensor | None


class TrainingBatches(SinceLastCheck):
    """What a rule can know of the batches of the last check, without a forward pass.

    Taken are up to 64 batches from the last check on, of each up to 64 samples; inputs must be images, ``(N, C, H, W)``
    or more dimensions, of up to eight channels. Nothing is moved off the device before :meth:`take`, and nothing is
    drawn at random. Of a mask 4,096 pixels are read, on an even grid.

    Tags; ``c`` is a channel, ``k`` a class, ``d`` a dimension of the targets:

    ===========================  ===================================================================================
    ``batches/level_c``          mean of the inputs over their standard deviation
    ``batches/spread_c``         standard deviation
    ``batches/skew_c``           third standardised moment: its sign turns when images are inverted
    ``batches/detail_c``         root mean squared difference of neighbours over the standard deviation
    ``batches/class_share_k``    share of the samples (of the pixels, for masks) with that target; up to 32 classes
    ``batches/target_level_d``   mean of the ``d``-th target over its standard deviation, where targets are quantities
    ``batches/target_spread_d``  standard deviation of the ``d``-th target
    ``batches/told``             share of the variance of coarse images (4 × 4 cells) that targets account for, from 0
    ``batches/told_most``        the same in the cell where it is largest
    ``batches/repeated``         share of samples that were there before in the same epoch, bit by bit
    ``batches/validation``       share of samples that are in the validation batches, bit by bit
    ===========================  ===================================================================================
    """

    def __init__(self) -> None:
        super().__init__()
        self._batches: list[_Batch] = []
        self._validation: list[torch.Tensor] = []
        self._known: set[bytes] = set()
        self._classes = 0

    def note(self, batch: Any, epoch: int) -> None:
        """Look at a training batch."""
        if len(self._batches) < MOST_BATCHES and (images := images_in(batch, MOST_SAMPLES)) is not None:
            inputs, targets = images
            self._batches.append(_Batch(epoch, _moments(inputs), _cells(inputs), _rows(targets)))

    def note_validation(self, batch: Any) -> None:
        """Look at a validation batch."""
        if len(self._validation) < MOST_BATCHES and (images := images_in(batch, MOST_VALIDATION)) is not None:
            self._validation.append(_cells(images[0]))

    def _summary(self) -> dict[str, float]:
        batches, self._batches = self._batches, []
        if not batches:
            self._validation = []
            return {}
        cells = torch.cat([batch.cells for batch in batches]).double().cpu()
        return {
            f"{FAMILY}/{name}": value
            for name, value in (*_of_inputs(batches), *self._of_targets(batches, cells), *self._of_samples(batches))
        }

    def _of_targets(self, batches: list[_Batch], cells: torch.Tensor) -> Iterator[tuple[str, float]]:
        found = [batch.targets for batch in batches if batch.targets is not None]
        if len(found) < len(batches) or len({one.shape[1:] for one in found}) > 1:
            return
        targets = torch.cat(found).cpu()
        targets = targets if targets.is_floating_point() else targets.long()
        if not targets.is_floating_point() and targets.dim() == 1:
            yield from self._shares(targets)
            yield from _told(_between_classes(cells, targets))
        elif targets.is_floating_point():
            for place, column in enumerate(targets.double().unbind(1)):
                spread = float(column.std())
                yield f"target_spread_{place}", spread
                yield f"target_level_{place}", float(column.mean()) / spread if spread else 0.0
            yield from _told(_along(cells, targets.double()))
        else:  # masks
            yield from self._shares(targets.flatten())
            yield from _told(_along(cells, targets.double().flatten(1).mean(1, keepdim=True)))

    def _shares(self, classes: torch.Tensor) -> Iterator[tuple[str, float]]:
        known = classes[classes >= 0]  # below 0 are pixels that a loss leaves out
        if len(known):
            self._classes = max(self._classes, int(known.max()) + 1)
        if 0 < self._classes <= MOST_CLASSES:
            counts = torch.bincount(known, minlength=self._classes).tolist()
            yield from ((f"class_share_{place}", count / max(1, len(known))) for place, count in enumerate(counts))

    def _of_samples(self, batches: list[_Batch]) -> Iterator[tuple[str, float]]:
        samples = [(batch.epoch, name) for batch in batches for name in _names(batch.cells)]
        yield "repeated", 1 - len(set(samples)) / len(samples)
        validation, self._validation = self._validation, []
        self._known = {name for cells in validation for name in _names(cells)} or self._known
        if self._known:
            yield "validation", sum(name in self._known for _, name in samples) / len(samples)


def images_in(batch: Any, most: int) -> tuple[torch.Tensor, torch.Tensor | None] | None:
    """The first images of a batch, ``most`` of them, and their targets; None where a batch holds no images."""
    try:
        inputs, targets = adapt_batch(batch)
    except TypeError:
        return None
    if not isinstance(inputs, torch.Tensor) or inputs.dim() < 4 or not 0 < inputs.shape[1] <= MOST_CHANNELS:
        return None
    if not inputs.numel() or inputs.is_complex():
        return None
    targets = targets.detach()[:most] if targets is not None and targets.dim() else None
    return inputs.detach()[:most].float(), targets if targets is not None and len(targets) else None


def _moments(inputs: torch.Tensor) -> torch.Tensor:
    """Means per channel of x, x², x³ and of squared differences between neighbours along the last axis."""
    x = inputs.transpose(0, 1).flatten(1)
    rough = (inputs[..., 1:] - inputs[..., :-1]).square().transpose(0, 1).flatten(1)
    return torch.stack([x.mean(1), x.square().mean(1), x.pow(3).mean(1), rough.mean(1)], 1)


def _cells(inputs: torch.Tensor) -> torch.Tensor:
    return F.adaptive_avg_pool2d(inputs.flatten(2, -2) if inputs.dim() > 4 else inputs, CELLS).flatten(1)


def _rows(targets: torch.Tensor | None) -> torch.Tensor | None:
    """Classes ``(N,)``, masks, or quantities ``(N, D)``; None for what is neither."""
    if targets is None or targets.is_complex():
        return None
    if not targets.is_floating_point():
        if targets.dim() < 3:
            return targets.flatten() if targets.dim() == 1 or targets.shape[1] == 1 else targets.short()
        side = round(MOST_PIXELS ** (1 / (targets.dim() - 1)))
        return targets[(slice(None), *(slice(None, None, -(-size // side)) for size in targets.shape[1:]))].short()
    rows = targets.reshape(len(targets), -1)[:, : CELLS**2]
    return rows if rows.shape[1] else None


def _of_inputs(batches: list[_Batch]) -> Iterator[tuple[str, float]]:
    counts = torch.tensor([len(batch.cells) for batch in batches], dtype=torch.float64)
    stacked = torch.stack([batch.moments for batch in batches]).double().cpu()
    means = (stacked * (counts / counts.sum())[:, None, None]).sum(0)
    for place, (first, second, third, rough) in enumerate(means.tolist()):
        spread = max(second - first**2, 0.0) ** 0.5 if second == second else second
        yield f"spread_{place}", spread
        if spread == 0:  # images of one colour have nothing more to be said of
            continue
        yield f"level_{place}", first / spread
        yield f"skew_{place}", (third - 3 * first * second + 2 * first**3) / spread**3
        yield f"detail_{place}", rough**0.5 / spread


def _between_classes(cells: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Share of each cell's variance between classes (omega squared: what chance gives is taken off)."""
    _, place = classes.unique(return_inverse=True)
    counts = place.bincount().double()
    sums = torch.zeros(len(counts), cells.shape[1], dtype=torch.float64).index_add_(0, place, cells)
    total = (cells - cells.mean(0)).square().sum(0)
    between = ((sums / counts[:, None] - cells.mean(0)).square() * counts[:, None]).sum(0)
    free, left = len(counts) - 1, len(cells) - len(counts)
    if free < 1 or left < 1:
        return torch.zeros(0)
    error = (total - between) / left
    return torch.where(total > 0, (between - free * error) / (total + error), 0.0)


def _along(cells: torch.Tensor, quantities: torch.Tensor) -> torch.Tensor:
    """Share of each cell's variance along the quantities, added up (adjusted R² of each alone)."""
    if len(cells) < 4:
        return torch.zeros(0)
    x, y = cells - cells.mean(0), quantities - quantities.mean(0)
    squares = x.square().sum(0)[:, None] * y.square().sum(0)
    shares = torch.where(squares > 0, (x.T @ y).square() / squares, 0.0)
    return (1 - (1 - shares) * (len(x) - 1) / (len(x) - 2)).sum(1)


def _told(shares: torch.Tensor) -> Iterator[tuple[str, float]]:
    if len(shares):
        yield "told", float(shares.mean())
        yield "told_most", float(shares.max())


def _names(cells: torch.Tensor) -> list[bytes]:
    """A name of each sample: the bits of its coarse image."""
    return [row.tobytes() for row in cells.float().cpu().numpy()]
