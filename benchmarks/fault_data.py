"""Small data sets for the fault benchmark: digits, MNIST and CIFAR-10, as classes, quantities or masks.

``mnist_crop``, ``cifar_crop`` and ``cifar_grey`` hold other images than ``mnist`` and ``cifar``, and other sizes; so do
``mnist_test``, ``cifar_test`` and ``cifar_luma``, and again ``mnist_edges`` and ``cifar_last``. ``digits_large`` are
the digits at another size, in other channels. No images were left for the sets of the
later halves (``mnist_ghosts`` and after): these show images of other sets in another way.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

SIDE = 14  # pixels of MNIST and CIFAR-10 images after resizing


@dataclass(frozen=True)
class Images:
    """Normalised images ``(N, C, H, W)`` with targets; ``mean`` and ``std`` undo the normalisation.

    Targets are classes ``(N,)``, two quantities ``(N, 2)`` (how far the image was shifted), or masks ``(N, H, W)``.
    """

    x: torch.Tensor
    y: torch.Tensor
    x_val: torch.Tensor
    y_val: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor


@lru_cache
def load_images(data: str, task: str, imbalance: float, train: int, validation: int) -> Images:
    """A data set; with ``imbalance`` that share of the images of the classes from 5 on is left out."""
    raw, labels = _RAW[data]()
    order = torch.randperm(len(raw), generator=torch.Generator().manual_seed(0))
    draws = torch.rand(len(raw), generator=torch.Generator().manual_seed(1))
    order = order[(labels[order] < 5) | (draws[order] >= imbalance)][: train + validation]
    raw, targets = _TASKS[task](raw[order], labels[order])
    mean, std = raw.mean((0, 2, 3), keepdim=True), raw.std((0, 2, 3), keepdim=True)
    images = (raw - mean) / std
    return Images(images[validation:], targets[validation:], images[:validation], targets[:validation], mean, std)


def _digits() -> tuple[torch.Tensor, torch.Tensor]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return _with_gradients(torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16), torch.tensor(labels)


def _mnist() -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = _file("mnist_5k.npz")
    return _with_gradients(F.avg_pool2d(images[:, None], 2)), labels


def _mnist_crop() -> tuple[torch.Tensor, torch.Tensor]:
    """The middle of other images, 10 x 10 pixels."""
    images, labels = _file("mnist_5k.npz", 3000, 4000)
    return _with_gradients(F.avg_pool2d(images[:, None, 4:24, 4:24], 2)), labels


def _cifar() -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = _file("cifar10_12k.npz")
    return F.interpolate(images.permute(0, 3, 1, 2), SIDE, mode="area"), labels


def _cifar_crop() -> tuple[torch.Tensor, torch.Tensor]:
    """The middle of other images, at full resolution, 16 x 16 pixels."""
    images, labels = _file("cifar10_12k.npz", 5000, 8000)
    return images.permute(0, 3, 1, 2)[:, :, 8:24, 8:24], labels


def _cifar_grey() -> tuple[torch.Tensor, torch.Tensor]:
    """Still other images without colour, 12 x 12 pixels."""
    images, labels = _file("cifar10_12k.npz", 8000, 10000)
    return _with_gradients(F.interpolate(images.mean(3)[:, None], 12, mode="area")), labels


def _digits_large() -> tuple[torch.Tensor, torch.Tensor]:
    """The digits at 12 x 12 pixels: intensity, its square and its negative."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    grey = F.interpolate(torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16, 12, mode="bilinear")
    return torch.cat([grey, grey.square(), 1 - grey.roll(1, 3)], 1), torch.tensor(labels)


def _mnist_test() -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = _file("mnist_5k.npz", 0, 1500, "test")
    return _with_gradients(F.interpolate(images[:, None], 13, mode="area")), labels


def _cifar_test() -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = _file("cifar10_12k.npz", 0, 1000, "test")
    return F.interpolate(images.permute(0, 3, 1, 2), 15, mode="area"), labels


def _cifar_luma() -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = _file("cifar10_12k.npz", 1000, 2000, "test")
    return _with_gradients(F.interpolate(images.mean(3)[:, None], 16, mode="area")), labels


def _mnist_edges() -> tuple[torch.Tensor, torch.Tensor]:
    """Images that no other set holds, 12 x 12 pixels, as differences of neighbours alone."""
    images, labels = _file("mnist_5k.npz")
    rest = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[1200:]  # ``mnist`` takes the first
    grey = F.interpolate(images[rest, None], 12, mode="area")
    return torch.cat([(grey.roll(-1, 3) - grey).abs(), (grey.roll(-1, 2) - grey).abs(), grey.sqrt()], 1), labels[rest]


def _cifar_last() -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = _file("cifar10_12k.npz", 3000, 5000)
    return F.interpolate(images.permute(0, 3, 1, 2), 12, mode="area"), labels


def _mnist_ghosts() -> tuple[torch.Tensor, torch.Tensor]:
    """Digits with a fainter one over each, 14 x 14 pixels; the class is that of the stronger."""
    images, labels = _file("mnist_5k.npz", 1000, 4000)
    grey = F.avg_pool2d(images[:, None], 2)
    return _with_gradients((grey + 0.35 * grey.roll(17, 0).flip(3)).clamp(max=1.0)), labels


def _cifar_chroma() -> tuple[torch.Tensor, torch.Tensor]:
    """Differences of the colours beside the intensity, 14 x 14 pixels."""
    images, labels = _file("cifar10_12k.npz", 1500, 4500)
    red, green, blue = F.interpolate(images.permute(0, 3, 1, 2), SIDE, mode="area").unbind(1)
    return torch.stack([red - green, green - blue, (red + green + blue) / 3], 1), labels


def _digits_turned() -> tuple[torch.Tensor, torch.Tensor]:
    """The digits lying on their side, 10 x 10 pixels, under a little noise."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    grey = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8).rot90(1, (2, 3)) / 16
    grey = F.interpolate(grey, 10, mode="bilinear")
    return _with_gradients(
        grey + 0.1 * torch.randn(grey.shape, generator=torch.Generator().manual_seed(4))
    ), torch.tensor(labels)


def _mnist_thick() -> tuple[torch.Tensor, torch.Tensor]:
    """Thick strokes on a bright ground, 12 x 12 pixels."""
    images, labels = _file("mnist_5k.npz", 500, 3500)
    thick = F.max_pool2d(images[:, None], 3, 1, 1)
    return _with_gradients(1 - F.interpolate(thick, 12, mode="area")), labels


def _cifar_edges() -> tuple[torch.Tensor, torch.Tensor]:
    """Edges beside the intensity, 16 x 16 pixels."""
    images, labels = _file("cifar10_12k.npz", 6000, 9000)
    grey = F.interpolate(images.mean(3)[:, None], 16, mode="area")
    return torch.cat([grey, (grey.roll(-1, 3) - grey).abs(), (grey.roll(-1, 2) - grey).abs()], 1), labels


def _digits_blocks() -> tuple[torch.Tensor, torch.Tensor]:
    """The digits as blocks of 2 x 2 equal pixels, mirrored."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    grey = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8).flip(3) / 16
    return _with_gradients(F.interpolate(grey, 16, mode="nearest")[:, :, 2:14, 2:14]), torch.tensor(labels)


def _mnist_noisy() -> tuple[torch.Tensor, torch.Tensor]:
    """Under noise, 14 x 14 pixels."""
    images, labels = _file("mnist_5k.npz", 0, 4000)
    grey = F.avg_pool2d(images[2:, None], 2)
    return _with_gradients(grey + 0.25 * torch.randn(grey.shape, generator=torch.Generator().manual_seed(5))), labels[
        2:
    ]


def _cifar_quarters() -> tuple[torch.Tensor, torch.Tensor]:
    """A quarter of each image, 16 x 16 pixels, upside down."""
    images, labels = _file("cifar10_12k.npz", 2000, 6000)
    return images.permute(0, 3, 1, 2)[:, :, 4:20, 12:28].flip(2), labels


def _digits_outlines() -> tuple[torch.Tensor, torch.Tensor]:
    """What is left of the digits without their local mean, 12 x 12 pixels."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    grey = F.interpolate(torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16, 12, mode="bicubic")
    return _with_gradients(grey - F.avg_pool2d(grey, 5, 1, 2, count_include_pad=False)), torch.tensor(labels)


def _cifar_full() -> tuple[torch.Tensor, torch.Tensor]:
    """All training images at full resolution, 32 x 32 pixels, for networks of full size."""
    images, labels = _file("cifar10_12k.npz", 0, 10000)
    return images.permute(0, 3, 1, 2), labels


def _with_gradients(grey: torch.Tensor) -> torch.Tensor:
    """Three channels: intensity and its two gradients."""
    across, down = grey.roll(-1, 3) - grey, grey.roll(-1, 2) - grey
    return torch.cat([grey, across / 2 + 0.5, down / 2 + 0.5], 1)


def _file(name: str, first: int = 0, end: int = 3000, part: str = "train") -> tuple[torch.Tensor, torch.Tensor]:
    folder = Path(os.environ.get("CONVSCOPE_DATA", Path(__file__).parents[2] / "shared" / "data"))
    with np.load(folder / name) as data:  # no made images in its place: a table of those would be worthless
        images, labels = data[f"x_{part}"][first:end], data[f"y_{part}"][first:end]
        return torch.from_numpy(images).float() / 255, torch.from_numpy(labels).long()


def _classes(raw: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return raw, labels


def _shifts(raw: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Images that are shifted by up to three pixels; the shift is the target."""
    shifts = torch.randint(-3, 4, (len(raw), 2), generator=torch.Generator().manual_seed(2))
    moved = [image.roll(tuple(shift), (1, 2)) for image, shift in zip(raw, shifts.tolist(), strict=True)]
    return torch.stack(moved), shifts.float() / 2


def _masks(raw: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The strokes as a mask, to be found under noise."""
    noise = torch.randn(raw.shape, generator=torch.Generator().manual_seed(3))
    return raw + 0.5 * noise, (raw[:, 0] > 0.3).long()


_RAW = {
    "digits": _digits,
    "mnist": _mnist,
    "cifar": _cifar,
    "mnist_crop": _mnist_crop,
    "cifar_crop": _cifar_crop,
    "cifar_grey": _cifar_grey,
    "digits_large": _digits_large,
    "mnist_test": _mnist_test,
    "cifar_test": _cifar_test,
    "cifar_luma": _cifar_luma,
    "mnist_edges": _mnist_edges,
    "cifar_last": _cifar_last,
    "cifar_full": _cifar_full,
    "mnist_noisy": _mnist_noisy,
    "cifar_quarters": _cifar_quarters,
    "digits_outlines": _digits_outlines,
    "mnist_thick": _mnist_thick,
    "cifar_edges": _cifar_edges,
    "digits_blocks": _digits_blocks,
    "mnist_ghosts": _mnist_ghosts,
    "cifar_chroma": _cifar_chroma,
    "digits_turned": _digits_turned,
}
_TASKS = {"classes": _classes, "regression": _shifts, "segmentation": _masks}


def augmented(images: torch.Tensor, how: str) -> torch.Tensor:
    """A batch shifted by up to one pixel; ``strong``: also changed in contrast, with noise and a hole."""
    if how == "none":
        return images
    images = images.roll((random.randint(-1, 1), random.randint(-1, 1)), (2, 3))
    if how == "strong":
        images = images * random.uniform(0.7, 1.3) + 0.2 * torch.randn_like(images)
        side = images.shape[-1]
        top, left = random.randrange(side - side // 4), random.randrange(side - side // 4)
        images[:, :, top : top + side // 4, left : left + side // 4] = 0.0
    return images
