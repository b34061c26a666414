"""Part scores against the sums written out, closed forms, and maps with a known part."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from convscope.metrics.functional import (
    PeaksResult,
    equivariance_proxy,
    filter_loss,
    location_instability,
    part_maps,
    part_scores,
    peaks,
)
from convscope.metrics.functional.parts import class_activation, filter_classes, part_templates, scaled_to_total


def written_out(maps: np.ndarray) -> tuple[float, float, float]:
    """Loss and both entropies of one filter ``(N, n, n)``, sum by sum as the paper has them."""
    n = maps.shape[1]
    tau, beta, alpha = 0.5 / n**2, 4.0, n**2 / (1 + n**2)
    templates, prior = [], []
    for a in range(1, n + 1):
        for b in range(1, n + 1):
            t = [
                [tau * max(1 - beta * (abs(i - a) + abs(j - b)) / n, -1) for j in range(1, n + 1)]
                for i in range(1, n + 1)
            ]
            templates.append(np.array(t))
            prior.append(alpha / n**2)
    templates.append(np.full((n, n), -tau))
    prior.append(1 - alpha)
    given = np.array([[math.exp((x * t).sum()) for x in maps] for t in templates])
    given /= given.sum(1, keepdims=True)
    image = sum(p * row for p, row in zip(prior, given, strict=True))
    loss = -sum(
        p * q * math.log(q / i) for p, row in zip(prior, given, strict=True) for q, i in zip(row, image, strict=True)
    )
    posterior = given * np.array(prior)[:, None] / image
    there = posterior[:-1].sum(0)
    category = -(image * (there * np.log(there) + posterior[-1] * np.log(posterior[-1]))).sum()
    place = posterior[:-1] / there
    spatial = (image * there * -(place * np.log(place)).sum(0)).sum()
    return float(loss), float(category), float(spatial)


@pytest.mark.parametrize("n", [1, 2, 3, 6])
@pytest.mark.parametrize("size", [0.3, 5.0, 200.0])
def test_scores_are_the_sums_written_out(n: int, size: float) -> None:
    generator = torch.Generator().manual_seed(n)
    maps = size * torch.rand(7, 4, n, n, generator=generator).double().pow(3)
    found = part_scores(maps)
    for c in range(4):
        loss, category, spatial = written_out(maps[:, c].numpy())
        assert found.filter_loss[c].item() == pytest.approx(loss, rel=1e-6, abs=1e-12)
        assert found.category_entropy[c].item() == pytest.approx(category, rel=1e-6, abs=1e-12)
        assert found.spatial_entropy[c].item() == pytest.approx(spatial, rel=1e-6, abs=1e-12)


def test_templates_by_hand() -> None:
    found = part_templates(3) * 18  # τ = 1/18
    assert found[4].tolist() == [
        [-1.0, pytest.approx(-1 / 3), -1.0],
        [pytest.approx(-1 / 3), 1.0, pytest.approx(-1 / 3)],
        [-1.0, pytest.approx(-1 / 3), -1.0],
    ]
    assert found[9].tolist() == [[-1.0] * 3] * 3
    assert found.shape == (10, 3, 3)


def test_empty_and_uniform_maps_say_nothing() -> None:
    for maps in (torch.zeros(6, 2, 4, 4), torch.full((6, 2, 4, 4), 3.0)):
        found = part_scores(maps)
        torch.testing.assert_close(found.filter_loss, torch.zeros(2).double(), atol=1e-12, rtol=0)
        assert found.bound == pytest.approx(-math.log(17))


def one_hot(images: int, n: int, height: float) -> Tensor:
    """A part somewhere else in each image, and as many images without it."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.zeros(images, 1, n, n)
    for image in range(0, images, 2):
        maps[image, 0, torch.randint(n, (1,), generator=generator), torch.randint(n, (1,), generator=generator)] = (
            height
        )
    return maps


def test_a_clear_part_lowers_the_loss_and_a_texture_does_not() -> None:
    part = part_scores(one_hot(200, 6, 2000.0)).filter_loss.item()
    texture = part_scores(
        2000.0 / 36 * (one_hot(200, 6, 1.0).amax((2, 3), keepdim=True) * torch.ones(6, 6))
    ).filter_loss.item()
    weak = part_scores(one_hot(200, 6, 1.0)).filter_loss.item()
    assert part < texture - 1
    assert part < weak - 1
    assert part >= part_scores(one_hot(200, 6, 2000.0)).bound


@pytest.mark.parametrize("n", [2, 5])
def test_one_hot_maps_in_closed_form(n: int) -> None:
    """One image for each place and one without the part reach the bound; the part always in one place says nothing."""
    peaked = 1e4 * n**2 * torch.cat([torch.eye(n * n), torch.zeros(1, n * n)]).view(-1, 1, n, n)
    found = part_scores(peaked)
    assert found.filter_loss.item() == pytest.approx(-math.log(n * n + 1))
    assert found.filter_loss.item() == pytest.approx(found.bound.item())
    still = peaked[:1].expand(9, -1, -1, -1)
    assert part_scores(still).filter_loss.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("height", [3.0, 500.0])
def test_one_place_or_nothing_in_closed_form(height: float) -> None:
    """Maps of a single cell: two templates, +τ and −τ with τ = 1/2, and images of two kinds."""
    a, b = 4, 6  # images with the part and without
    maps = torch.cat([torch.full((a, 1, 1, 1), height), torch.zeros(b, 1, 1, 1)])
    up, down = 1 / (a + b * math.exp(-height / 2)), 1 / (a * math.exp(-height / 2) + b)  # p(x | T) of the likelier kind
    rows = [(a, up, down * math.exp(-height / 2)), (b, up * math.exp(-height / 2), down)]
    mutual = sum(count * 0.5 * p * math.log(p / (0.5 * (x + y))) for count, x, y in rows for p in (x, y) if p > 0)
    assert part_scores(maps).filter_loss.item() == pytest.approx(-mutual, rel=1e-9)


def test_fewer_images_than_templates_bound_the_loss() -> None:
    assert part_scores(one_hot(10, 6, 1e6)).filter_loss.item() >= -math.log(10)


def test_maps_of_one_total_have_a_loss_that_does_not_depend_on_their_size() -> None:
    maps = torch.rand(30, 3, 5, 5, generator=torch.Generator().manual_seed(0)).pow(4)
    maps[:, 2] = 0
    expected = part_scores(maps, scale="total").filter_loss
    torch.testing.assert_close(part_scores(1e-3 * maps, scale="total").filter_loss, expected, rtol=1e-5, atol=1e-9)
    assert (part_scores(1e-3 * maps).filter_loss[:2] > part_scores(maps).filter_loss[:2] / 100).all()
    assert expected[2] == pytest.approx(0, abs=1e-12)
    fires = scaled_to_total(maps).sum((2, 3)).mean(0)
    assert fires[:2].tolist() == pytest.approx([20 * 25] * 2)
    with pytest.raises(ValueError, match="scale='big': give one of 'as_is', 'total'"):
        part_scores(maps, scale="big")  # type: ignore[arg-type]


# The loss with a gradient.


@pytest.mark.parametrize("scale", ["as_is", "total"])
@pytest.mark.parametrize("size", [0.3, 5.0, 200.0])
def test_the_training_loss_is_the_measured_one(size: float, scale: Any) -> None:
    maps = size * torch.rand(9, 4, 5, 5, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(filter_loss(maps, scale), part_scores(maps, scale).filter_loss, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("scale", ["as_is", "total"])
def test_the_gradient_is_right(scale: Any) -> None:
    maps = (50 * torch.rand(4, 2, 3, 3, generator=torch.Generator().manual_seed(0)).double()).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: filter_loss(x, scale), (maps,))


def test_templates_made_in_inference_mode_serve_training() -> None:
    part_templates.cache_clear()
    with torch.inference_mode():
        part_scores(torch.rand(3, 1, 7, 7))
    maps = torch.rand(3, 1, 7, 7, requires_grad=True)
    filter_loss(maps).sum().backward()
    assert maps.grad is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(dtype: torch.dtype) -> None:
    maps = (40 * torch.rand(9, 4, 5, 5, generator=torch.Generator().manual_seed(0))).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = filter_loss(maps)
    torch.testing.assert_close(found, filter_loss(maps.float()))
    assert found.dtype == torch.float32


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 3, 20, 30), (2, 3, 5, 9), (2, 3, 1, 1)])
def test_maps_are_square_small_and_keep_their_peaks(shape: tuple[int, ...]) -> None:
    activation = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    found = part_maps(activation)
    n = min(*shape[2:], 14)
    assert part_maps(activation, 1).flatten(1).equal(activation.amax((2, 3)))
    assert found.shape == (*shape[:2], n, n)
    assert torch.equal(found.amax((2, 3)), activation.amax((2, 3)))


def test_filters_in_blocks_are_filters_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = torch.rand(9, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    whole = part_scores(maps)
    monkeypatch.setattr("convscope.metrics.functional.parts._AT_ONCE", 300)
    for found, expected in zip(part_scores(maps)[:3], whole[:3], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (torch.zeros(0, 1, 3, 3), "at least one image"),
        (torch.zeros(2, 1, 3, 4), r"shape \(N, C, n, n\)"),
        (-torch.ones(2, 1, 3, 3), "must not be negative, got a minimum of -1"),
        (torch.full((2, 1, 3, 3), torch.inf), "maps must be finite"),
    ],
)
def test_bad_maps_are_named(maps: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        part_scores(maps)
    with pytest.raises(ValueError, match=r"two spatial dimensions"):
        part_maps(torch.zeros(2, 3, 4))


# Classes.


def test_filter_classes_and_purity_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    maps, target = torch.rand(20, 3, 2, 2, generator=generator), torch.arange(20) % 4
    maps[target == 2, 1] *= 50
    maps[:, 2] = 0
    chunks = [class_activation(maps[s], target[s], 5) for s in (slice(0, 3), slice(3, 20))]
    owner, purity = filter_classes(chunks[0][0] + chunks[1][0], chunks[0][1] + chunks[1][1])
    means = torch.stack([maps[target == k].double().sum((2, 3)).mean(0) for k in range(4)])
    assert owner[1] == 2
    assert owner[0] == means[:, 0].argmax()
    torch.testing.assert_close(purity[:2], means.amax(0)[:2] / means.sum(0)[:2])
    assert purity[2].isnan()


def test_class_indices_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, 2\], got 1 to 3"):
        class_activation(torch.zeros(2, 1, 2, 2), torch.tensor([1, 3]), 3)


# Places.


def test_peaks_are_centres_of_cells() -> None:
    maps = torch.zeros(1, 2, 4, 5)
    maps[0, 0, 3, 1] = 2.0
    found = peaks(maps)
    assert found.value.tolist() == [[2.0, 0.0]]
    assert found.place[0, 0].tolist() == pytest.approx([3.5 / 4, 1.5 / 5])


def test_a_filter_that_follows_a_landmark_is_stable() -> None:
    generator = torch.Generator().manual_seed(0)
    landmarks = torch.rand(300, 2, 2, generator=generator)
    place = torch.stack([landmarks[:, 0], torch.rand(300, 2, generator=generator)], dim=1)
    value = torch.rand(300, 2, generator=generator)
    found = location_instability(PeaksResult(value, place), landmarks, (32, 48))
    assert found[0, 0] == 0
    for c, k in ((0, 1), (1, 0), (1, 1)):
        order = value[:, c].argsort(descending=True)[:100]
        scale = torch.tensor([32.0, 48.0])
        d = ((place[order, c] - landmarks[order, k]) * scale).norm(dim=1) / scale.norm()
        assert found[c, k].item() == pytest.approx(d.numpy().std(), rel=1e-5)


def test_images_that_do_not_excite_a_filter_do_not_count() -> None:
    value, place = torch.tensor([[3.0, 0.0], [2.0, 0.0], [0.0, 0.0]]), torch.rand(3, 2, 2)
    found = location_instability(PeaksResult(value, place), torch.rand(3, 1, 2), (8, 8))
    two = location_instability(PeaksResult(value[:2, :1], place[:2, :1]), torch.zeros(2, 1, 2), (8, 8))
    assert found[1].isnan().all()
    assert not two.isnan().any()


def test_images_without_the_landmark_do_not_count() -> None:
    landmarks = torch.rand(6, 1, 2, generator=torch.Generator().manual_seed(0))
    landmarks[3:] = torch.nan
    found = PeaksResult(torch.rand(6, 1), torch.rand(6, 1, 2))
    expected = location_instability(PeaksResult(found.value[:3], found.place[:3]), landmarks[:3], (8, 8))
    assert torch.equal(location_instability(found, landmarks, (8, 8)), expected)
    landmarks[1:] = torch.nan
    assert location_instability(found, landmarks, (8, 8)).isnan().all()
    with pytest.raises(ValueError, match=r"shape \(6, K, 2\), got \(5, 1, 2\)"):
        location_instability(found, landmarks[:5], (8, 8))


@pytest.mark.parametrize("flipped", [False, True])
def test_a_filter_that_moves_with_the_image_has_no_error(flipped: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.zeros(8, 2, 16, 16)
    rows, columns = torch.randint(5, 11, (2, 8), generator=generator)
    image[torch.arange(8), 0, rows, columns] = 1
    image[:, 1, 8, 8] = 1  # a filter that stays where it is
    moved = image.flip(3) if flipped else image
    moved = torch.stack([moved[:, 0].roll((2, 3), (1, 2)), image[:, 1]], dim=1)
    found = equivariance_proxy(peaks(image), peaks(moved), (2 / 16, 3 / 16), flipped, (16, 16))
    assert found[0].item() == pytest.approx(0, abs=1e-7)
    assert found[1] > 0.05


def test_peaks_that_leave_the_image_or_are_none_do_not_count() -> None:
    image = torch.zeros(2, 1, 4, 4)
    image[0, 0, 3, 3] = 1  # leaves
    assert equivariance_proxy(peaks(image), peaks(image), (0.5, 0.0), False, (4, 4)).isnan().all()
