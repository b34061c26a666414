"""Two scales fitted to sums over copies: chunks, processes and places do not matter, planted evidence is found."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from convscope.metrics import MultiScaleFit, SwitchingAreas
from convscope.metrics.functional import (
    MultiScaleResult,
    common_focus,
    sparse_two_scale_regression,
    switching_area,
    two_scale_sums,
    weighted_r2,
)

MEMBERSHIP = torch.eye(4).repeat_interleave(4, 0)


def copies(image: int, count: int = 80) -> dict[str, Tensor]:
    """Copies of one image whose output one fine super-pixel makes: number ``5 · image``, with some noise."""
    draw = torch.Generator().manual_seed(image)
    on = (torch.rand(count, 16, generator=draw) > 0.5).double()
    output = 0.1 + 0.8 * on[:, 5 * image] + 0.02 * torch.randn(count, generator=draw)
    return {
        "coarse": on @ MEMBERSHIP.double() / 4,
        "fine": on,
        "output": output,
        "weight": torch.rand(count, generator=draw).double(),
    }


def filled(metric: MultiScaleFit, images: list[int], parts: int = 1) -> MultiScaleFit:
    for image in images:
        metric.describe(image, MEMBERSHIP, torch.full((4,), 0.5), torch.full((16,), 2.0))
        data = {name: value.tensor_split(parts) for name, value in copies(image).items()}
        for part in range(parts):
            metric.update(image, **{name: values[part] for name, values in data.items()})
    return metric


def close(found: MultiScaleResult, expected: MultiScaleResult) -> None:
    for a, b in zip(found[:-1], expected[:-1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_the_planted_super_pixel_is_found_at_both_scales() -> None:
    found = filled(MultiScaleFit(3, 4, 16), [0, 1, 2]).compute()
    assert found.fine.argmax(1).tolist() == [0, 5, 10]
    assert found.coarse.argmax(1).tolist() == [0, 1, 2]
    assert found.fine_r2.min() > 0.9
    assert (found.fine_r2 > found.coarse_r2).all()
    torch.testing.assert_close(found.coarse, found.weights.coarse * 0.5)
    torch.testing.assert_close(found.fine, found.weights.fine * 2)
    assert (found.fine_nonzero <= 0.25).all()
    assert bool(found.weights.converged.all())


@pytest.mark.parametrize("parts", [2, 7])
def test_chunks_do_not_matter(parts: int) -> None:
    expected = filled(MultiScaleFit(2, 4, 16), [0, 1]).compute()
    close(filled(MultiScaleFit(2, 4, 16), [0, 1], parts).compute(), expected)


def test_processes_that_take_different_images_find_what_one_finds() -> None:
    one = filled(MultiScaleFit(3, 4, 16), [0, 1, 2])
    several = [filled(MultiScaleFit(3, 4, 16), [0]), filled(MultiScaleFit(3, 4, 16), [1, 2])]
    both = copy.deepcopy(several[0])
    for name in both._defaults:  # what the exchange between processes does with sums
        setattr(both, name, sum(getattr(metric, name) for metric in several))
    close(both.compute(), one.compute())


def test_an_image_is_found_alike_whatever_others_there_are_and_however_much_space() -> None:
    alone = filled(MultiScaleFit(1, 4, 16), [0]).compute()
    beside = filled(MultiScaleFit(3, 6, 20), [0, 2]).compute()
    torch.testing.assert_close(beside.fine[0, :16], alone.fine[0], rtol=1e-6, atol=1e-9)
    assert beside.fine[:, 16:].abs().max() == 0
    assert beside.fine[1].abs().max() == 0  # nothing was said of it
    assert beside.coarse_nonzero[0] == alone.coarse_nonzero[0]


@pytest.mark.parametrize("nonzero", [0.05, 0.25, 0.5, 1.0])
def test_no_more_weights_than_asked_for(nonzero: float) -> None:
    draw = torch.Generator().manual_seed(0)
    on = (torch.rand(2, 90, 16, generator=draw) > 0.5).double()
    output = (on * torch.rand(16, generator=draw)).sum(2) / 8
    sums = two_scale_sums(on @ MEMBERSHIP.double() / 4, on, output, torch.ones(2, 90))
    weights, strength = sparse_two_scale_regression(sums, MEMBERSHIP, nonzero)
    count = (weights.fine != 0).sum(1)
    assert (count <= max(1, math.floor(16 * nonzero))).all()
    assert nonzero < 0.2 or (count >= 16 * nonzero / 2).all()
    assert ((strength > 0) & (strength <= 1)).all()


def test_r2_is_that_of_the_copies() -> None:
    data = copies(1)
    weights = torch.randn(16, generator=torch.Generator().manual_seed(0)).double() / 9
    sums = two_scale_sums(data["coarse"][None], data["fine"][None], data["output"][None], data["weight"][None])
    y, h = data["output"], data["weight"]
    misfit = (h * (data["fine"] @ weights - y).square()).sum()
    spread = (h * (y - (h * y).sum() / h.sum()).square()).sum()
    rest = sums.output_square, (h * y).sum()[None], h.sum()[None]
    found = weighted_r2(sums.fine_gram, sums.fine_moment, weights[None], *rest)
    assert float(found) == pytest.approx(max(0.0, float(1 - misfit / spread)), abs=1e-9)
    flat = torch.tensor([5.0]), torch.tensor([5.0]), torch.tensor([5.0])  # an output of 1 everywhere
    assert bool(weighted_r2(sums.fine_gram, sums.fine_moment, weights[None], *flat).isnan())


def test_areas_are_means_over_images_and_add_up() -> None:
    shares = [0.0, 0.25, 1.0]
    curves = torch.rand(5, 2, 2, 3, dtype=torch.float64)
    metric = SwitchingAreas(2, shares)
    for curve in curves:
        metric.update(curve)
    expected = torch.trapezoid(curves, torch.tensor(shares).double()).mean(0)
    torch.testing.assert_close(metric.compute(), expected)
    assert switching_area(torch.ones(4, 3), shares).tolist() == [1.0] * 4


def test_the_focus_is_one_place_or_none() -> None:
    everywhere = torch.eye(16)
    assert float(common_focus(everywhere)) == pytest.approx(1 / 16)
    assert float(common_focus(everywhere[:1].expand(9, -1))) == 1.0
    assert float(common_focus(torch.cat([everywhere[:1], torch.zeros(3, 16)]))) == 1.0  # of those that have any
    assert math.isnan(float(common_focus(torch.zeros(3, 16))))


def _metric() -> MultiScaleFit:
    return MultiScaleFit(2, 4, 16)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MultiScaleFit(0, 4, 16), "num_images=0: give a whole number"),
        (lambda: MultiScaleFit(2, 4, 16, nonzero=2.0), "nonzero=2.0: give a share"),
        (lambda: MultiScaleFit(2, 4, 16, balance=0.0), "balance=0.0: give a finite number, above 0"),
        (lambda: _metric().update(2, **copies(0)), "Image 2 is not among the 2"),
        (lambda: MultiScaleFit(2, 3, 16).update(0, **copies(0)), "does not fit a metric"),
        (lambda: _metric().describe(0, torch.ones(17, 4), torch.ones(4), torch.ones(17)), "does not fit a metric"),
        (lambda: _metric().compute(), "needs copies, got none"),
        (lambda: SwitchingAreas(1, [0.0, 1.0]).compute(), "needs? curves, got none"),
        (lambda: SwitchingAreas(1, [0.0, 0.5]), "shares that rise from 0 to 1"),
        (lambda: SwitchingAreas(1, [0.0, 1.0]).update(torch.zeros(1, 2, 3)), r"must have shape \(1, 2, 2\)"),
        (lambda: switching_area(torch.zeros(3), [0.0, 1.0]), "Each share needs a probability"),
        (lambda: common_focus(torch.tensor([[torch.nan]])), "must be finite"),
    ],
)
def test_bad_input_is_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
