"""Perturbed copies of a few held-out images: a held-out set of its own, made in memory while a pass goes through it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from convscope._arguments import numbers, refuse
from convscope.callbacks.parts.example_images import image_among
from convscope.capture.data.batches import take_rows, tree_map
from convscope.capture.data.heldout import Chunk, HeldOut
from convscope.capture.data.sampling import random_order, stratified
from convscope.capture.outputs.choice import Outputs
from convscope.explainers.perturbations import Perturbation, is_constant, perturb

Normalisation = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation of each colour channel."""


def check_normalisation(given: Normalisation | None) -> Normalisation | None:
    """A mean and a standard deviation of each channel, or None.

    Raises:
        ValueError: if it is neither.
    """
    if given is None:
        return None
    pair = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else ()
    if len(pair) != 2:
        raise refuse("normalisation", given, "(mean, std), each a list with one number a channel, or None")
    mean = numbers("normalisation mean", pair[0], "a list of numbers")
    std = numbers("normalisation std", pair[1], "a list of numbers", least=0, above=True)
    return mean, std


@dataclass(frozen=True)
class ChosenImage:
    """One image of the held-out set.

    Attributes:
        number: Its number in the held-out set.
        inputs: All inputs of the sample, with one row.
        label: Class of the sample, 0 where there are no classes.
    """

    number: int
    inputs: Any
    label: int

    @property
    def image(self) -> torch.Tensor:
        """``(C, H, W)``."""
        found = image_among(self.inputs)
        if found is None:
            raise ValueError(f"held-out sample {self.number} has no image (C, H, W)")
        return found[0]


class PerturbedCopies(HeldOut):
    """Copies of some images: all of one image's follow one another, and no chunk has copies of two images.

    Images are divided among processes; a copy depends on seed, image and its own number alone. Chunks are made when
    they are asked for, so that memory does not grow with the number of copies.

    Args:
        heldout: The prepared set that the images are of.
        images: The same ones on every process.
        perturbation: What makes a copy.
        copies: Of each image, the image itself among them.
        normalisation: Perturb what the images were before ``(x - mean) / std``, and normalise again.
    """

    def __init__(
        self,
        heldout: HeldOut,
        images: Sequence[ChosenImage],
        perturbation: Perturbation,
        copies: int,
        normalisation: Normalisation | None = None,
    ) -> None:
        super().__init__(size=len(images) * copies, batch_size=min(heldout.batch_size, copies), seed=heldout.seed)
        self.total, self.copies, self.images = len(images) * copies, copies, list(images)
        self._processes, self._perturbation, self._normalisation = heldout._processes, perturbation, normalisation

    @property
    def here(self) -> list[ChosenImage]:
        """The images that this process runs."""
        return self.images[self._processes.rank :: self._processes.size]

    def of(self, image: ChosenImage, numbers: range) -> torch.Tensor:
        """Some copies of one image, ``(n, C, H, W)``."""
        picture = image.image
        if self._normalisation is None:
            return perturb(picture, self._perturbation, numbers, self.copies, self.seed, image.number)
        mean, std = (torch.tensor(part).to(picture).view(-1, 1, 1) for part in self._normalisation)
        raw = perturb(picture * std + mean, self._perturbation, numbers, self.copies, self.seed, image.number)
        found = (raw - mean) / std
        if 0 in numbers:
            found[numbers.index(0)] = picture  # not as rounding would have it
        return found

    @property
    def has_negative(self) -> bool:
        """Return whether an image has values below zero, as normalised ones do."""
        return any(bool((image.image < 0).any()) for image in self.images)

    def try_out(self) -> None:
        """Make every copy of the first image.

        Raises:
            ValueError: if the perturbation fails, or does not give images of the same shape, or the normalisation has
                another number of channels.
        """
        channels = len(self.images[0].image)
        for part in self._normalisation or ():
            if len(part) not in (1, channels):
                raise ValueError(f"normalisation={self._normalisation}: give a number for each of {channels} channels")
        try:
            for number in range(self.copies):
                self.of(self.images[0], range(number, number + 1))
        except ValueError:
            raise
        except Exception as error:
            raise ValueError(
                f"perturbation failed ({type(error).__name__}: {error}); give a function (image, number, copies, "
                "generator) -> image of one image (C, H, W)"
            ) from error

    def chunks(self, batch_size: int | None = None) -> Iterator[Chunk]:
        """This process's copies, at most ``batch_size`` a chunk; ``index`` has each copy's image."""
        size = batch_size or self.batch_size
        for image in self.here:
            for start in range(0, self.copies, size):
                yield self._chunk_of(image, range(start, min(start + size, self.copies)))
        most = math.ceil(len(self.images) / self._processes.size)
        for _ in range((most - len(self.here)) * math.ceil(self.copies / size)):
            yield self._chunk_of(self.images[0], range(1), padding=True)

    def _chunk_of(self, image: ChosenImage, numbers: range, padding: bool = False) -> Chunk:
        found, original = self.of(image, numbers), image_among(image.inputs)
        repeated = take_rows(image.inputs, torch.zeros(len(numbers), dtype=torch.long), 1)
        shown = image_among(repeated)
        inputs = found if original is image.inputs else tree_map(lambda t: found if t is shown else t, repeated)
        return Chunk(inputs, None, torch.full((len(numbers),), image.number), padding)


def choose_images(heldout: HeldOut, outputs: Outputs, count: int) -> tuple[list[ChosenImage], int]:
    """At most ``count`` images of a prepared held-out set, drawn by its seed; every process must call it.

    Classes keep their shares; where there are more classes than images, each image is of another class. Samples whose
    label is ignored, and images that have one value everywhere, are not drawn.

    Returns:
        The images in the order of their numbers, the same on every process, and how many were constant.
    """
    here = [row for chunk in heldout.chunks() if not chunk.padding for row in _rows(chunk, outputs)]
    everywhere = sorted(row for rows in heldout.gather(here) for row in rows)
    usable = [(number, label) for number, label, constant in everywhere if label >= 0 and not constant]
    labels = torch.tensor([label for _, label in usable], dtype=torch.long)
    chosen = [usable[place] for place in _spread(labels, count, heldout.seed).tolist()]
    mine = [ChosenImage(number, heldout.one(number), label) for number, label in chosen]
    held = {one.number: one for part in heldout.gather([m for m in mine if m.inputs is not None]) for one in part}
    return [held[number] for number, _ in chosen], sum(constant for _, _, constant in everywhere)


def _rows(chunk: Chunk, outputs: Outputs) -> list[tuple[int, int, bool]]:
    """Number, class and whether it is constant, of each sample of a chunk."""
    images = image_among(chunk.inputs)
    labels = [0] * len(chunk.index)
    if outputs.classes and chunk.targets is not None:
        labels = outputs.true_classes(chunk.targets).tolist()
    constant = [images is None or is_constant(image) for image in (images if images is not None else chunk.index)]
    return list(zip(chunk.index.tolist(), labels, constant, strict=True))


def _spread(labels: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """Places of the samples to take, sorted."""
    if len(labels) <= count:
        return torch.arange(len(labels))
    if len(labels.unique()) <= count:
        return stratified(labels, count, seed)
    first: dict[int, int] = {}  # place of the first sample of each class, in random order
    for place in random_order(len(labels), seed).tolist():
        first.setdefault(int(labels[place]), place)
    return torch.tensor(list(first.values())[:count]).sort().values
