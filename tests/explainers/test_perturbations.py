"""Perturbed copies: the first is the image, the rest what the formula says, the same for a seed and a number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import fft, ndimage
from torch import Tensor

from convscope.explainers.perturbations import (
    PERTURBATIONS,
    Blur,
    ConstantNoise,
    GrowingNoise,
    Occlusion,
    Quantisation,
    perturb,
)


def picture(shape: tuple[int, ...] = (3, 20, 28)) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def made(image: Tensor, kind: Any, copies: int, seed: int = 1, sample: int = 5) -> Tensor:
    return perturb(image, kind, range(copies), copies, seed, sample)


@pytest.mark.parametrize("name", PERTURBATIONS)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 9, 30)])
def test_the_first_copy_is_the_image_and_the_others_are_not(name: str, shape: tuple[int, ...]) -> None:
    image = picture(shape) - 0.5
    found = made(image, PERTURBATIONS[name](), 10)
    assert found.shape == (10, *shape)
    assert found.dtype == image.dtype
    assert torch.equal(found[0], image)
    assert all(not torch.equal(copy, image) for copy in found[1:])


@pytest.mark.parametrize("name", ["growing_noise", "constant_noise", "occlusion"])
def test_copies_depend_on_seed_sample_and_number_alone(name: str) -> None:
    image, kind = picture(), PERTURBATIONS[name]()
    first = made(image, kind, 6, seed=1, sample=2)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert torch.equal(made(image, kind, 6, seed=1, sample=2), first)
    assert torch.equal(torch.get_rng_state(), state)
    in_parts = [perturb(image, kind, part, 6, 1, 2) for part in (range(2), [2], range(3, 6))]
    assert torch.equal(torch.cat(in_parts), first)
    for seed, sample in ((2, 2), (1, 3), (2, 1), (0, 0)):
        assert not torch.equal(made(image, kind, 6, seed=seed, sample=sample), first)
    assert len({copy.sum().item() for copy in first}) > 3  # each copy has noise of its own


def test_growing_noise_is_the_authors() -> None:
    image = picture() + 0.5
    found = made(image, GrowingNoise(0.1), 50)
    noise = (found / image - 1) / 0.1
    for i in (1, 10, 49):
        assert noise[i].std().item() == pytest.approx(i, rel=0.1)
        assert abs(noise[i].mean().item()) < 4 * i / noise[i].numel() ** 0.5


def test_constant_noise_has_one_size() -> None:
    image = picture()
    noise = made(image, ConstantNoise(0.3), 20) - image
    assert noise[0].abs().max() == 0
    np.testing.assert_allclose(noise[1:].flatten(1).std(1), 0.3, rtol=0.1)


def test_occlusion_hides_one_square() -> None:
    image = picture()
    found = made(image, Occlusion(0.5), 30)
    for copy in found[1:]:
        changed = (copy != image).any(0).nonzero()
        low, high = changed.amin(0), changed.amax(0)
        assert (high - low + 1).tolist() == [10, 10]
        inside = copy[:, low[0] : high[0] + 1, low[1] : high[1] + 1]
        torch.testing.assert_close(inside, image.mean((1, 2), keepdim=True).expand_as(inside))


def test_blur_is_scipys() -> None:
    image = picture()
    found = made(image, Blur(2.0), 3)
    for copy, sigma in zip(found[1:], (1.0, 2.0), strict=True):
        expected = ndimage.gaussian_filter(
            image.double().numpy(), (0, sigma, sigma), mode="nearest", radius=(0, *[int(np.ceil(3 * sigma))] * 2)
        )
        np.testing.assert_allclose(copy, expected, atol=1e-5)


def test_quantisation_is_that_of_scipys_cosine_coefficients() -> None:
    image = picture((1, 16, 8))
    found = made(image, Quantisation(32.0), 5)
    unit = float(image.max() - image.min()) / 256
    coarse = unit * (np.arange(1, 9)[:, None] + np.arange(1, 9)) / 2
    for number, step in ((1, 8.0), (4, 32.0)):
        for row in (0, 8):
            block = image[0, row : row + 8].double().numpy()
            kept = np.round(fft.dctn(block, norm="ortho") / (coarse * step)) * (coarse * step)
            np.testing.assert_allclose(found[number, 0, row : row + 8], fft.idctn(kept, norm="ortho"), atol=2e-5)
    errors = (found - image).flatten(1).norm(dim=1)
    assert (errors.diff() > 0).all()


def test_a_function_of_the_users_own() -> None:
    image = picture()
    found = made(image, lambda x, i, n, g: x * (1 + i / (n - 1)), 4)
    torch.testing.assert_close(found[3], 2 * image)


@pytest.mark.parametrize(
    ("image", "function", "message"),
    [
        (torch.zeros(3, 8, 8, dtype=torch.uint8), GrowingNoise(), "torch.uint8: give floating point"),
        (torch.rand(8, 8), GrowingNoise(), r"shape \(8, 8\)"),
        (torch.full((1, 8, 8), 0.5), GrowingNoise(), "sample 7 is one value everywhere"),
        (torch.ones(3, 8, 8) * torch.rand(3, 1, 1), GrowingNoise(), "sample 7 is one value everywhere"),
        (picture(), lambda x, i, n, g: x[0], r"returned \(20, 28\) for copy 1 of an image \(3, 20, 28\)"),
        (picture(), lambda x, i, n, g: None, "returned NoneType"),
        (picture(), lambda x, i, n, g: x / 0, "copy 1 of sample 7 has NaN or infinite values"),
    ],
)
def test_what_cannot_be_perturbed_is_named(image: Tensor, function: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(image, function, 4, sample=7)
