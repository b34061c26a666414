"""Filter importance through a real fit, against plain autograd and against the weights themselves."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import nn

import convscope
from tests.callbacks.conftest import Classifier
from tests.networks import images

HELDOUT = images(30, seed=1)


def stem(module: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Activation and gradient of the first unit on the held-out set, by plain autograd."""
    net = module.net.eval()
    activation = F.relu(net.bn1(net.conv1(HELDOUT[0]))).detach().requires_grad_()
    logits = net.fc(net.layer2(net.layer1(activation)).mean((2, 3)))
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, HELDOUT[1], reduction="sum"), activation)
    return activation.detach(), gradient


def expected(module: Any, criterion: str) -> np.ndarray:
    activation, gradient = stem(module)
    unit = module.net
    values = {
        "taylor": lambda: (activation * gradient).sum((2, 3)).pow(2).mean(0),
        "gradient_activation": lambda: (activation * gradient).abs().mean((0, 2, 3)),
        "activation": lambda: activation.abs().mean((0, 2, 3)),
        "weight_l1": lambda: unit.conv1.weight.flatten(1).norm(1, dim=1),
        "weight_l2": lambda: unit.conv1.weight.flatten(1).norm(2, dim=1),
        "batchnorm": lambda: unit.bn1.weight.abs(),
        "output_correlation": lambda: torch.from_numpy(
            np.abs(np.corrcoef(activation.mean((2, 3)).T, unit(HELDOUT[0]).detach().T)[:4, 4:]).max(1)
        ),
    }
    return values[criterion]().detach().double().numpy()


@pytest.mark.parametrize(
    "criterion",
    ["taylor", "gradient_activation", "activation", "weight_l1", "weight_l2", "batchnorm", "output_correlation"],
)
def test_each_criterion_is_its_formula(fit: Any, criterion: str) -> None:
    callback = convscope.FilterImportance(criterion=criterion, heldout=convscope.HeldOut(batch_size=7), curves="all")
    run = fit([callback])
    found = callback._previous["net.conv1"].numpy()
    np.testing.assert_allclose(found, expected(run.module, criterion), rtol=2e-3)
    family = "importance" if criterion == "taylor" else f"importance_{criterion}"
    assert run.curve(f"{family}/mean/net.conv1")[-1][1] == pytest.approx(found.mean(), rel=1e-5)


def test_rank_stability_is_spearman_with_the_check_before(fit: Any) -> None:
    kept: list[np.ndarray] = []

    class Keep(convscope.FilterImportance):
        def compute(self, layer: Any) -> Any:
            result = super().compute(layer)
            if layer.name == "net.layer2.0.conv2":
                kept.append(result.distribution)
            return result

    run = fit([Keep()], max_epochs=3)
    pairs = itertools.pairwise(kept)
    found = [value for _, value in run.curve("importance/rank_stability/net.layer2.0.conv2")]
    assert found == pytest.approx([spearmanr(a, b).statistic for a, b in pairs], abs=1e-5)


def test_the_users_loss_is_used(fit: Any) -> None:
    plain = convscope.FilterImportance()
    doubled = convscope.FilterImportance(
        loss=lambda z, y: 2 * F.cross_entropy(z, y), heldout=convscope.HeldOut(batch_size=64), name="doubled"
    )
    fit([plain, doubled])
    for layer, values in plain._previous.items():  # Taylor is quadratic in the gradient
        np.testing.assert_allclose(doubled._previous[layer], 4 * values, rtol=1e-3, atol=1e-12)


def test_two_losses_for_one_heldout_set_are_refused(fit: Any) -> None:
    callbacks = [
        convscope.FilterImportance(loss=nn.CrossEntropyLoss()),
        convscope.FilterImportance(criterion="gradient_activation", loss=nn.NLLLoss()),
    ]
    with pytest.raises(Exception, match="name different losses for one held-out set; give them one loss, or a HeldOut"):
        fit(callbacks)


def test_layers_without_a_norm_are_left_out_of_the_batchnorm_criterion(fit: Any, caplog: Any) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.plain, self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
            self.head = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.relu(self.bn(self.conv(torch.relu(self.plain(x))))).mean((2, 3)))

    with caplog.at_level("INFO"):
        run = fit([convscope.FilterImportance(criterion="batchnorm")], module=Classifier(Mixed()))
    assert any("leaves out layers that it cannot measure: net.plain" in message for message in caplog.messages)
    assert "importance_batchnorm/gini/net.conv" in run.events.Tags()["scalars"]
