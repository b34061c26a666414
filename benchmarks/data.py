"""CIFAR-10 images for benchmarks, or random images of that size where the file is absent."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

_FILE = "cifar10_12k.npz"


def cifar10(count: int, split: str = "train") -> tuple[torch.Tensor, torch.Tensor, str]:
    """``count`` normalised images ``(N, 3, 32, 32)``, their labels, and a word on where they come from.

    Looked for in the folder that ``CONVSCOPE_DATA`` names, else in ``../shared/data`` beside the repository.
    """
    folder = Path(os.environ.get("CONVSCOPE_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if (folder / _FILE).exists():
        with np.load(folder / _FILE) as data:
            images, labels = data[f"x_{split}"][:count], data[f"y_{split}"][:count]
        pictures = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).sub(0.5).div(0.25)
        return pictures.contiguous(), torch.from_numpy(labels).long(), "CIFAR-10 images"
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(count, 3, 32, 32, generator=generator)
    return pictures, torch.randint(0, 10, (count,), generator=generator), f"random images ({_FILE} was not found)"
