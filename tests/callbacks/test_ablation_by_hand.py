"""Values that AblationOracle and ForwardFromLayer log in a real fit, against ablation by hand with plain hooks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convscope import AblationOracle, ForwardFromLayer, HeldOut
from convscope.callbacks.forward import loss_kept
from tests.callbacks.conftest import Classifier
from tests.networks import images
from tests.support import awkward
from tests.support.ablation import by_hand, mean_by_hand

Fit = Callable[..., Any]
NETWORKS = [
    awkward.CosineHead, awkward.WeightStandardisation, awkward.MemoryBank, awkward.TokensFirst, awkward.TestTimeCalls,
    awkward.Recycled, awkward.WritesIntoInput, awkward.Dense,
]  # fmt: skip
SAMPLES = 21


def held_out(chunk: int) -> HeldOut:
    return HeldOut(images(SAMPLES, classes=4, seed=5), batch_size=chunk)


def once(kind: Any, chunk: int = 8, **arguments: Any) -> Any:
    """One check, after training, of the raw convolution that the network is ablated at."""
    given: dict[str, Any] = {"layers": "net.conv", "observe_at": "conv", "heldout": held_out(chunk)}
    given |= {"every_n_epochs": 1, "on_start": False, "on_error": "raise"}
    return kind(**{**given, **arguments})


def last(run: Any, tag: str) -> float:
    return run.curve(tag)[-1][1]


def ablated(module: Any, keep: torch.Tensor, baseline: str = "mean") -> torch.Tensor:
    """Logits of the trained network under one filter set."""
    net, x = copy.deepcopy(module.net).eval(), images(SAMPLES, classes=4, seed=5)[0]
    fill = mean_by_hand(net, x, "conv").float() if baseline == "mean" else torch.zeros(len(keep))
    return by_hand(net, x, "conv", keep, fill)


def rises(module: Any, loss: Any = F.cross_entropy) -> torch.Tensor:
    y, channels = images(SAMPLES, classes=4, seed=5)[1], module.net.conv.out_channels
    base = loss(ablated(module, torch.ones(channels, dtype=torch.bool)), y)
    return torch.stack([loss(ablated(module, row), y) - base for row in ~torch.eye(channels, dtype=torch.bool)])


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("chunk", [4, 7])
def test_logged_rises_are_those_by_hand_at_any_chunk_size(fit: Fit, network: Any, chunk: int) -> None:
    torch.manual_seed(0)
    arguments = {"criteria": ["weight_l1"], "rank_by": "weight_l1", "ends": 1}
    forward = once(ForwardFromLayer, chunk, curves="all", criterion="weight_l1", shares=(0.25, 0.5))
    run = fit([once(AblationOracle, chunk, **arguments), forward], module=Classifier(network()), max_epochs=1)
    expected = rises(run.module)
    weights = run.module.net.conv.weight.detach().abs().flatten(1).sum(1)
    assert last(run, "ablation/random/net.conv") == pytest.approx(float(expected.mean()), abs=2e-6)
    assert last(run, "ablation/top/net.conv") == pytest.approx(float(expected[weights.argmax()]), abs=2e-6)
    assert last(run, "ablation/bottom/net.conv") == pytest.approx(float(expected[weights.argmin()]), abs=2e-6)
    y, order = images(SAMPLES, classes=4, seed=5)[1], weights.argsort()
    keep = [~torch.isin(torch.arange(4), order[:count]) for count in (0, 1, 2, 4)]
    accuracy = [float((ablated(run.module, row).argmax(1) == y).float().mean()) for row in keep]
    area = float(np.trapezoid(accuracy, [0, 0.25, 0.5, 1]))
    assert last(run, "forward_weight_l1/area_ascending/net.conv") == pytest.approx(area, abs=1e-6)
    assert last(run, "forward_weight_l1/without_layer/net.conv") == pytest.approx(accuracy[-1], abs=1e-6)


class Dead(awkward.Base):
    """Its outputs do not depend on the layer."""

    def after(self, x: torch.Tensor) -> torch.Tensor:
        return super().after(self.stem.bias.view(-1, 1, 1) + 0 * x.clamp(-9, 9))


def test_in_a_dead_network_no_filter_matters_and_no_rank_correlation_is_logged(fit: Fit) -> None:
    callback = once(AblationOracle, criteria=["weight_l1", "activation"], rank_by="weight_l1", ends=1)
    run = fit([callback], module=Classifier(Dead()), max_epochs=1)
    assert last(run, "ablation/random/net.conv") == 0.0
    assert not [tag for tag in run.events.Tags()["scalars"] if "spearman" in tag]


def test_a_criterion_that_is_constant_is_left_out_of_the_summary(fit: Fit) -> None:
    net = awkward.Base()
    nn.init.constant_(net.conv.weight, 0.1)
    callback = once(AblationOracle, criteria=["weight_l1", "activation"], rank_by="weight_l1", ends=1)
    run = fit([callback], module=Classifier(net, lr=0.0), max_epochs=1)
    tags = run.events.Tags()["scalars"]
    assert "ablation/spearman_activation/net.conv" in tags
    assert not [tag for tag in tags if tag.startswith("ablation/spearman_weight_l1")]


class Regression(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return F.mse_loss(self(batch[0])[:, 0], batch[1].float())

    validation_step = None  # type: ignore[assignment]


def test_a_removal_that_helps_counts_as_nothing_lost_and_one_that_hurts_as_its_share(fit: Fit) -> None:
    """Targets are what the network gives without half of its filters: so much is known of the curve."""
    torch.manual_seed(1)
    module, x = Regression(awkward.Base(), lr=0.0), images(SAMPLES, classes=4, seed=5)[0]
    order = module.net.conv.weight.detach().abs().flatten(1).sum(1).argsort()

    def outputs(count: int) -> torch.Tensor:
        return ablated(module, ~torch.isin(torch.arange(4), order[:count]), "zero")

    heldout = HeldOut((x, outputs(2)), batch_size=8)
    callback = once(
        ForwardFromLayer, curves="all", criterion="weight_l1", shares=(0.25, 0.5), baseline="zero", heldout=heldout
    )
    run = fit([callback], module=module, max_epochs=1)
    losses = [float((outputs(count) - outputs(2)).square().mean()) for count in (0, 1, 2, 4)]
    kept = [1.0 if loss <= losses[0] else losses[0] / loss for loss in losses]
    assert kept[2] == 1.0
    assert losses[0] > 0  # where the loss is 0, nothing is lost
    assert last(run, "forward_weight_l1/without_layer/net.conv") == pytest.approx(kept[3], abs=1e-5)
    area = float(np.trapezoid(kept, [0, 0.25, 0.5, 1]))
    assert last(run, "forward_weight_l1/area_ascending/net.conv") == pytest.approx(area, abs=1e-5)


def test_share_of_a_loss_that_is_kept() -> None:
    kept = loss_kept(torch.tensor(2.0), torch.tensor([2.0, 1.0, 0.0, 4.0, 8.0]))
    assert kept.tolist() == [1.0, 1.0, 1.0, 0.5, 0.25]
    assert loss_kept(torch.tensor(0.0), torch.tensor([0.0, 3.0])).tolist() == [1.0, 0.0]
    for before, after in ((-1.0, 2.0), (1.0, -2.0)):
        with pytest.raises(ValueError, match="below zero"):
            loss_kept(torch.tensor(before), torch.tensor([3.0, after]))


def weighted(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits, targets, weight=torch.tensor([1.0, 5.0, 1.0, 1.0]))


def contrastive(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    rows = F.normalize(logits)
    return F.cross_entropy(rows @ rows.T, torch.arange(len(rows)))


def ranked(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """One value a sample, each by its rank in the batch."""
    losses = F.cross_entropy(logits, targets, reduction="none")
    return losses * losses.argsort().argsort().float()


@pytest.mark.parametrize("loss", [weighted, contrastive, ranked])
def test_a_loss_that_weighs_or_compares_samples_is_refused_for_this_callback_alone(
    fit: Fit, caplog: pytest.LogCaptureFixture, loss: Any
) -> None:
    callback = once(AblationOracle, loss=loss, criteria=["weight_l1"], rank_by="weight_l1", on_error="warn")
    run = fit([callback], module=Classifier(awkward.Base()), max_epochs=1)
    assert "reduction='none'" in caplog.text
    assert not [tag for tag in run.events.Tags()["scalars"] if tag.startswith("ablation/")]


def focal(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    losses = F.cross_entropy(logits, targets, reduction="none", weight=torch.tensor([1.0, 5.0, 1.0, 1.0]))
    return losses * (1 - (-losses).exp()) ** 2


def looping(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cannot be vectorised: it goes through Python numbers."""
    picked = [F.cross_entropy(row, target) * (1 + target.item()) for row, target in zip(logits, targets, strict=True)]
    return torch.stack(picked)


@pytest.mark.parametrize("loss", [focal, looping])
def test_a_loss_with_a_value_for_each_sample_is_taken_as_it_is(fit: Fit, loss: Any) -> None:
    callback = once(AblationOracle, loss=loss, criteria=["weight_l1"], rank_by="weight_l1", ends=1)
    run = fit([callback], module=Classifier(awkward.Base()), max_epochs=1)
    expected = rises(run.module, lambda logits, targets: loss(logits, targets).mean())
    assert last(run, "ablation/random/net.conv") == pytest.approx(float(expected.mean()), abs=2e-6)


def test_ignored_samples_do_not_count(fit: Fit) -> None:
    x, y = images(SAMPLES, classes=4, seed=5)
    marked = torch.where(torch.arange(SAMPLES) % 4 == 0, -100, y)
    callback = once(
        AblationOracle, criteria=["weight_l1"], rank_by="weight_l1", heldout=HeldOut((x, marked), batch_size=8)
    )
    run = fit([callback], module=Classifier(awkward.Base()), max_epochs=1)
    expected = rises(run.module, lambda logits, _: F.cross_entropy(logits, marked))
    full = torch.tensor([float(value) for value in expected])
    assert last(run, "ablation/random/net.conv") == pytest.approx(float(full.mean()), abs=2e-6)
