"""The benchmark of scale: exponents, tables, and every network runs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from benchmarks.scale_networks import UNet, convnext_t, resnet, resnet3d, tiny, wide
from benchmarks.scale_report import exponent, growth


@pytest.mark.parametrize("power", [0.0, 1.0, 2.5])
def test_the_exponent_of_a_power(power: float) -> None:
    x = [10.0, 100.0, 2000.0]
    assert exponent(x, [3 * one**power for one in x]) == pytest.approx(power)


def test_a_single_point_has_no_exponent() -> None:
    assert math.isnan(exponent([10.0], [3.0]))


def test_a_series_is_in_order_with_its_exponents() -> None:
    rows: dict[str, dict[str, Any]] = {
        f"heldout{n}": {"layers": 4, "seconds": n, "forward": n**2, "forwards": 5.0, "peak": n, "written": 7}
        for n in (10_000, 1000)
    }
    lines = growth(rows, "heldout").splitlines()
    assert [line.split("|")[1].strip() for line in lines[4:6]] == ["1,000", "10,000"]
    assert lines[6] == "| **exponent** | | 1.00 | 2.00 | 0.00 | 1.00 | 0.00 |"


@pytest.mark.parametrize(
    ("network", "shape", "output"),
    [
        (lambda: resnet((1, 1, 1, 1), 7, width=4, photographs=True), (3, 32, 32), (2, 7)),
        (lambda: convnext_t(7), (3, 32, 32), (2, 7)),
        (lambda: UNet(7, width=2), (3, 16, 16), (2, 7, 16, 16)),
        (lambda: resnet3d(7, width=2), (3, 4, 8, 8), (2, 7)),
        (lambda: tiny(7), (3, 8, 8), (2, 7)),
        (lambda: wide(7, 16), (3, 8, 8), (2, 7)),
    ],
)
def test_the_networks_give_logits(network: Any, shape: tuple[int, ...], output: tuple[int, ...]) -> None:
    with torch.no_grad():
        assert network().eval()(torch.randn(2, *shape)).shape == output
