"""Super-pixels: numbered from 0, nested, the same every time; copies: off where they are off and nowhere else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from convscope.explainers.segments import Segments, segment, segment_means, usual_counts
from convscope.explainers.switches import (
    distances,
    draw_switches,
    fill_image,
    nearness,
    random_ranks,
    share_on,
    switched,
)


def picture(channels: int = 3, height: int = 32, width: int = 32) -> Tensor:
    """Four flat quarters of different colour, with a little noise."""
    generator = torch.Generator().manual_seed(0)
    image = 0.02 * torch.randn(channels, height, width, generator=generator)
    image[:, : height // 2, : width // 2] += 1
    image[0, height // 2 :] += 2
    image[-1, :, width // 2 :] -= 1
    return image


def check(found: Segments, height: int, width: int) -> None:
    p, q = found.counts
    assert found.coarse.shape == found.fine.shape == (height, width)
    assert found.coarse.unique().tolist() == list(range(p))
    assert found.fine.unique().tolist() == list(range(q))
    assert (found.membership.sum(1) == 1).all()
    assert (found.membership.sum(0) >= 1).all()
    assert torch.equal(found.membership[found.fine.flatten()].argmax(1), found.coarse.flatten())


@pytest.mark.parametrize("method", ["grid", "slic", "quickshift"])
@pytest.mark.parametrize("size", [(3, 32, 32), (1, 28, 28), (3, 20, 47)])
def test_every_fine_super_pixel_lies_inside_a_coarse_one(method: str, size: tuple[int, int, int]) -> None:
    if method != "grid":
        pytest.importorskip("skimage")
    found = segment(picture(*size), method, coarse=9, fine=36)
    check(found, *size[1:])
    again = segment(picture(*size), method, coarse=9, fine=36)
    assert torch.equal(found.fine, again.fine)


@pytest.mark.parametrize(("coarse", "fine"), [(1, 1), (4, 16), (16, 64), (7, 30), (1024, 1024)])
def test_the_grid_has_about_as_many_cells_as_asked_for(coarse: int, fine: int) -> None:
    found = segment(picture(), "grid", coarse, fine)
    check(found, 32, 32)
    assert coarse / 1.5 <= found.counts[0] <= coarse * 1.5


def test_slic_keeps_to_the_borders_of_colours() -> None:
    pytest.importorskip("skimage")
    found = segment(picture(), "slic", coarse=4, fine=16)
    quarter = (torch.arange(32)[:, None] // 16) * 2 + torch.arange(32) // 16
    for number in range(found.counts[0]):
        inside = quarter[found.coarse == number]
        assert inside.bincount().max() > 0.95 * len(inside)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "watershed"}, "method='watershed': give one of 'grid', 'slic', 'quickshift'"),
        ({"coarse": 0}, "coarse=0, fine=64: give whole numbers"),
        ({"coarse": 65}, "coarse=65, fine=64"),
        ({"fine": 2000}, "the number of pixels"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segment(picture(), **arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"image of shape \(32, 32\): give one image"):
        segment(picture()[0])


def test_means_over_super_pixels_of_maps_of_any_size() -> None:
    found = segment(picture(), "grid", 4, 16)
    values = torch.arange(2 * 32 * 32.0).view(2, 32, 32)
    means = segment_means(values, found.fine, 16)
    assert means[1, 5].item() == pytest.approx(values[1][found.fine == 5].mean().item())
    small = torch.arange(4.0).view(1, 2, 2)
    assert segment_means(small, found.coarse, 4).tolist() == [[0.0, 1.0, 2.0, 3.0]]


@pytest.mark.parametrize("fill", ["zero", "mean", "blur"])
def test_only_what_is_off_is_replaced(fill: str) -> None:
    image = picture()
    found, instead = segment(image, "grid", 4, 16), fill_image(picture(), fill)
    on = draw_switches(20, 16, seed=3)
    copies = switched(image, instead, found.fine, on)
    assert torch.equal(copies[0], image)
    for k in range(20):
        shown = on[k][found.fine]
        assert torch.equal(copies[k][:, shown], image[:, shown])
        assert torch.equal(copies[k][:, ~shown], instead[:, ~shown])


def test_fills_are_what_they_say() -> None:
    image = picture()
    assert fill_image(image, "zero").abs().max() == 0
    assert torch.equal(fill_image(image, "mean")[:, 0, 0], image.mean((1, 2)))
    blurred = fill_image(image, "blur")
    assert blurred.shape == image.shape
    assert blurred[0, 16, 16].item() == pytest.approx(image[0, 12:21, 12:21].mean().item(), abs=1e-5)
    with pytest.raises(ValueError, match="fill='noise': give one of 'zero', 'mean', 'blur'"):
        fill_image(image, "noise")


def test_switches_are_fixed_and_fair() -> None:
    on = draw_switches(4000, 8, seed=1)
    assert torch.equal(on, draw_switches(4000, 8, seed=1))
    assert not torch.equal(on, draw_switches(4000, 8, seed=2))
    assert (on.float().mean(0) - 0.5).abs().max() < 4 * 0.5 / 4000**0.5


def test_the_share_of_a_coarse_super_pixel_that_is_on() -> None:
    membership = torch.tensor([[1, 0], [1, 0], [0, 1]], dtype=torch.float64)
    on = torch.tensor([[True, False, True], [False, False, False]])
    assert share_on(on, membership).tolist() == [[0.5, 1.0], [0.0, 0.0]]


@pytest.mark.parametrize("fill", ["zero", "mean", "blur"])
def test_nearer_copies_weigh_more(fill: str) -> None:
    image, found = picture(), segment(picture(), "grid", 4, 16)
    instead, on = fill_image(image, fill), draw_switches(9, 16, seed=0)
    weight = nearness(on, distances(image, instead, found.fine, 16))
    copies = switched(image, instead, found.fine, on)
    squares = (copies - image).double().square().flatten(1).sum(1)
    torch.testing.assert_close(weight, (-squares / squares.median()).exp(), rtol=1e-5, atol=0)
    assert weight[0] == 1
    assert nearness(on, torch.zeros(16, dtype=torch.float64)).tolist() == [1.0] * 9  # nothing to see in the image


def test_random_orders_are_orders() -> None:
    ranks = random_ranks(5, 12, seed=3, number=7)
    assert all(row.sort().values.tolist() == list(range(12)) for row in ranks)
    assert not torch.equal(ranks[0], ranks[1])
    assert torch.equal(ranks, random_ranks(5, 12, seed=3, number=7))
    assert not torch.equal(ranks, random_ranks(5, 12, seed=3, number=8))


@pytest.mark.parametrize("size", [(20, 47), (47, 20), (28, 28), (9, 9), (224, 224)])
def test_fine_cells_are_about_equal(size: tuple[int, int]) -> None:
    found = segment(torch.zeros(1, *size), "grid", *usual_counts(*size))
    pixels = found.fine.flatten().bincount()
    assert pixels.max() <= 4 * pixels.min()
    each = found.membership.sum(0)
    assert each.min() == each.max()


@pytest.mark.parametrize(
    ("size", "counts"),
    [((32, 32), (16, 64)), ((8, 8), (4, 16)), ((4, 4), (1, 4)), ((1, 1), (1, 1)), ((2, 40), (5, 20))],
)
def test_usual_counts_fit_the_image(size: tuple[int, int], counts: tuple[int, int]) -> None:
    assert usual_counts(*size) == counts
    check(segment(torch.zeros(3, *size), "grid", *counts), *size)


@pytest.mark.parametrize("method", ["slic", "quickshift"])
def test_segments_by_colour_are_not_cut_into_slivers(method: str) -> None:
    pytest.importorskip("skimage")
    found = segment(picture(3, 64, 64), method, coarse=9, fine=36)
    assert found.fine.flatten().bincount().min() >= 8
