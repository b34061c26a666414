"""A network that says nothing reads as chance, and what cannot be measured there is not logged."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import convscope
from tests.callbacks.conftest import Classifier
from tests.networks import images

PICTURES, _ = images(30)


class Dead(nn.Module):
    """Two convolutions of which no filter ever fires."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.fc = nn.Linear(4, 3)
        for conv in (self.conv1, self.conv2):
            nn.init.constant_(conv.bias, -1e4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv2(torch.relu(self.conv1(x))))
        return self.fc(x.mean((2, 3)))


def dead_run(fit: Any, labels: torch.Tensor, callbacks: list[Any]) -> Any:
    loader = DataLoader(TensorDataset(PICTURES, labels), 10)
    return fit(callbacks, Classifier(Dead(), lr=0.0), (loader, loader), max_epochs=1)


@pytest.mark.parametrize("sizes", [(10, 10, 10), (16, 9, 5)], ids=["even", "uneven"])
def test_probes_of_a_dead_network_read_as_chance(fit: Any, sizes: tuple[int, ...]) -> None:
    labels = torch.arange(3).repeat_interleave(torch.tensor(sizes))
    probes = [
        convscope.LayerProbe(probe=p, on_error="raise", curves="all") for p in ("ridge", "logistic", "knn", "centroid")
    ]
    run = dead_run(fit, labels, [*probes, convscope.LayerPrediction(on_error="raise")])
    for probe in probes:
        assert run.curve(f"{probe.name}/chance")[-1][1] == pytest.approx(max(sizes) / 30)
        for layer in ("net.conv1", "net.conv2", "output"):
            assert run.curve(f"{probe.name}/accuracy/{layer}")[-1][1] == pytest.approx(max(sizes) / 30)
            assert run.curve(f"{probe.name}/balanced_accuracy/{layer}")[-1][1] == pytest.approx(1 / 3)
            assert run.curve(f"{probe.name}/selectivity/{layer}")[-1][1] == pytest.approx(0, abs=1e-6)
    shares = torch.tensor(sizes) / 30
    surprise = float(torch.special.entr(shares).sum())
    assert run.curve("prediction/entropy/net.conv2")[-1][1] == pytest.approx(surprise, abs=0.02)
    assert run.curve("prediction/true_probability/net.conv2")[-1][1] == pytest.approx(
        float(shares.square().sum()), abs=0.02
    )


def test_what_cannot_be_measured_in_a_dead_network_is_not_logged(fit: Any) -> None:
    suite = convscope.suite("full", on_error="raise", every_n_epochs=1, curves="all")
    labels = torch.arange(30) % 3
    run = dead_run(fit, labels, suite)
    tags = run.events.Tags()["scalars"]
    unmeasured = ("spearman", "rank_stability", "mean_abs", "redundant_share", "monotonicity", "/cka_", "strongest")
    found = [tag for tag in tags if any(name in tag for name in unmeasured)]
    assert [tag for tag in found if not tag.startswith("importance_weight_l1/")] == []  # weights differ all the same
    assert run.curve("correlation/constant_filters/net.conv1")[-1][1] == 4
    for tag in tags:
        assert all(math.isfinite(value) for _, value in run.curve(tag)), tag
