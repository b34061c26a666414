"""The explainer network alone: what it can reconstruct, what it is saved as, and what training it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convscope.explainers.distillation import DistilSettings, distil, reconstruction_error
from convscope.explainers.two_track import ExplainerNetwork, _resized
from convscope.metrics.functional import filter_loss, part_maps


def features(samples: int = 96) -> tuple[torch.Tensor, torch.Tensor]:
    """One blob an image, and what a convolution makes of it."""
    generator = torch.Generator().manual_seed(0)
    places = torch.randint(1, 7, (samples, 2), generator=generator)
    maps = torch.zeros(samples, 6, 8, 8)
    kind = torch.randint(6, (samples,), generator=generator)
    maps[torch.arange(samples), kind, places[:, 0], places[:, 1]] = 3.0
    torch.manual_seed(1)
    return F.avg_pool2d(maps, 3, 1, 1), nn.Conv2d(6, 4, 3, 2, 1)(maps).relu().detach()


def penalty(maps: torch.Tensor) -> torch.Tensor:
    return filter_loss(part_maps(maps), "total")


def fresh(target: tuple[int, ...] = (4, 4, 4)) -> ExplainerNetwork:
    torch.manual_seed(0)
    return ExplainerNetwork(6, (8, 8), target, 8)


def test_it_learns_to_reconstruct_and_prefers_parts() -> None:
    source, target = features()
    network = fresh()
    network.adapt(source, target)
    before = reconstruction_error(network.eval()(source).detach(), target)
    steps = distil(network, source, target, DistilSettings(steps=100, learning_rate=1e-2), penalty)
    assert steps == 100
    assert reconstruction_error(network(source).detach(), target) < min(0.4, before / 2)
    assert float(network.p.detach()) > 0.55
    assert not network.training
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("term", ["interpretable", "filter_weight"])
def test_each_term_of_the_loss_has_an_effect(term: str) -> None:
    source, target = features()
    found = []
    for weight in (0.0, 2.0):
        network = fresh()
        network.adapt(source, target)
        settings = {"interpretable": 0.1, "filter_weight": 0.05} | {term: weight}
        distil(network, source, target, DistilSettings(steps=25, learning_rate=1e-2, **settings), penalty)
        maps = network.part_maps(source)
        value = float(network.p.detach()) if term == "interpretable" else -float(penalty(maps).mean())
        found.append(value)
    assert found[1] > found[0] + 0.02


def test_global_random_streams_are_left_alone() -> None:
    source, target = features(16)
    network = fresh()
    before = torch.get_rng_state()
    distil(network, source, target, DistilSettings(steps=3), penalty)
    assert torch.equal(torch.get_rng_state(), before)


def test_training_ends_where_it_is_told_to() -> None:
    source, target = features(16)
    asked: list[int] = []

    def go_on(step: int) -> bool:
        asked.append(step)
        return step < 4

    assert distil(fresh(), source, target, DistilSettings(steps=50), penalty, go_on) == 4
    assert asked == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("target", [(4, 4, 4), (10,), (3, 16, 11)])
def test_a_saved_network_is_read_back(tmp_path: Path, target: tuple[int, ...]) -> None:
    source = features(5)[0]
    network = fresh(target).eval()
    network.adapt(source, torch.randn(5, *target))
    torch.save(network.saved(layer="conv"), tmp_path / "explainer.pt")
    assert torch.load(tmp_path / "explainer.pt", weights_only=True)["about"] == {"layer": "conv"}
    again = ExplainerNetwork.load(tmp_path / "explainer.pt")
    assert again(source).shape == (5, *target)
    assert torch.equal(again(source), network(source))
    newer = network.saved() | {"version": 99}
    with pytest.raises(ValueError, match="version 99 is of a newer convscope"):
        ExplainerNetwork.restored(newer)


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (8, 8), (16, 12)])
def test_resizing_is_adaptive_pooling(size: tuple[int, int]) -> None:
    maps = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(_resized(maps, size), F.adaptive_avg_pool2d(maps, size), rtol=1e-5, atol=1e-6)


def test_the_error_by_hand() -> None:
    target = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    assert reconstruction_error(target, target) == 0
    assert reconstruction_error(target.mean(0).expand(2, 2), target) == pytest.approx(1)
    assert reconstruction_error(target + 1, target) == pytest.approx(4 / 2)
    assert reconstruction_error(target, target[:1].expand(2, 2)) != reconstruction_error(target, target)


def test_silent_channels_give_numbers() -> None:
    network = fresh()
    network.adapt(torch.zeros(4, 6, 8, 8), torch.zeros(4, 4, 4, 4))
    assert bool(network.eval()(torch.zeros(4, 6, 8, 8)).isfinite().all())
    assert bool(network.train()(torch.zeros(4, 6, 8, 8)).isfinite().all())
