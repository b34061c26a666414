"""FilterHealth through real fits: what it logs against what is computed by hand, and faults that were put there."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

import convscope
from convscope.callbacks import FilterHealth
from tests.callbacks.conftest import Classifier, loaders
from tests.networks import TINY_RESNET_UNITS, Plain, images

LAYERS = ("net.conv1", "net.conv2")


class AtEpoch(L.Callback):
    """Does something to the network when an epoch starts: the faults of these tests."""

    def __init__(self, **actions: Any) -> None:
        self.actions = {int(name.removeprefix("epoch")): action for name, action in actions.items()}

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if action := self.actions.get(trainer.current_epoch):
            with torch.no_grad():
                action(pl_module.net)


class Caught(FilterHealth):
    """Keeps the weights of each check, to compare with what was logged."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.weights: list[dict[str, torch.Tensor]] = []

    def begin(self, layers: list[Any], samples: int) -> None:
        super().begin(layers, samples)
        self.weights.append({layer.name: layer.module.weight.detach().clone() for layer in layers})


def plain(lr: float = 0.05) -> Classifier:
    torch.manual_seed(0)
    return Classifier(Plain(channels=3), lr=lr)


def values(run: Any, tag: str) -> list[float]:
    return [value for _, value in run.curve(tag)]


def push_bias(filters: slice, value: float) -> Any:
    def action(net: nn.Module) -> None:
        net.conv2.bias[filters] = value

    return action


def test_every_documented_tag_is_written_and_no_other(fit: Any) -> None:
    run = fit([FilterHealth(curves="all")])
    documented = {
        "dead_filters", "constant_filters", "activation_rms", "activation_ratio", "gradient_rms", "gradient_ratio",
        "nonfinite", "nonfinite_gradients", "died", "revived", "update_ratio", "not_learning", "weight_norm",
        "statistics_change",
    }  # fmt: skip
    units = {f"net.{unit}" for unit in TINY_RESNET_UNITS}
    expected = {f"health/{quantity}/{unit}" for quantity in documented for unit in units}
    expected -= {"health/activation_ratio/net.conv1", "health/gradient_ratio/net.conv1"}
    written = {tag for tag in run.events.Tags()["scalars"] if tag.startswith("health/")}
    assert written == expected | {"health/dead_total", "health/nonfinite_total"}
    assert {f"health/filters/{unit}" for unit in units} <= set(run.events.Tags()["histograms"])
    assert len(values(run, "health/dead_filters/net.conv1")) == 3
    assert len(values(run, "health/update_ratio/net.conv1")) == 2


def test_values_are_those_of_plain_autograd_on_the_trained_network(fit: Any) -> None:
    run = fit([Caught(curves="all")], plain())
    net, (x, y) = run.module.net.eval(), images(30, seed=1)
    first = torch.relu(net.conv1(x))
    second = torch.relu(net.conv2(first))
    gradients = torch.autograd.grad(F.cross_entropy(net.head(second.amax((2, 3))), y, reduction="sum"), [first, second])
    rms = [float(t.detach().square().mean().sqrt()) for t in (first, second, *gradients)]
    for index, layer in enumerate(LAYERS):
        assert values(run, f"health/activation_rms/{layer}")[-1] == pytest.approx(rms[index], rel=1e-4)
        assert values(run, f"health/gradient_rms/{layer}")[-1] == pytest.approx(rms[2 + index], rel=1e-3)
    assert values(run, "health/activation_ratio/net.conv2")[-1] == pytest.approx(rms[1] / rms[0], rel=1e-3)
    assert values(run, "health/gradient_ratio/net.conv2")[-1] == pytest.approx(rms[2] / rms[3], rel=1e-3)


def test_update_ratio_is_that_of_the_weights_at_the_checks(fit: Any) -> None:
    health = Caught(curves="all")
    run = fit([health], plain(), max_epochs=3)
    for layer in LAYERS:
        kept = [weights[layer] for weights in health.weights]
        expected = [float((b - a).norm() / a.norm()) for a, b in pairwise(kept)]
        assert values(run, f"health/update_ratio/{layer}") == pytest.approx(expected, rel=1e-4)
        assert values(run, f"health/not_learning/{layer}") == [0, 0, 0]


def test_weight_norm_is_that_of_the_weights_at_the_checks(fit: Any) -> None:
    health = Caught(curves="all")
    run = fit([health], plain(), max_epochs=3)
    for layer in LAYERS:
        expected = [float(weights[layer].norm()) for weights in health.weights]
        assert values(run, f"health/weight_norm/{layer}") == pytest.approx(expected, rel=1e-5)
        assert not [tag for tag in run.events.Tags()["scalars"] if tag.startswith("health/statistics_change/")]


class Statistics(FilterHealth):
    """Keeps BatchNorm's running statistics at each check."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.kept: list[tuple[torch.Tensor, torch.Tensor]] = []

    def begin(self, layers: list[Any], samples: int) -> None:
        super().begin(layers, samples)
        self.kept.append((layers[0].norm.running_mean.clone(), layers[0].norm.running_var.clone().sqrt()))


def test_movement_of_running_statistics_is_that_of_the_buffers_and_zero_once_they_are_frozen(fit: Any) -> None:
    def freeze(net: nn.Module) -> None:
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.0

    health = Statistics(curves="all")
    run = fit([AtEpoch(epoch2=freeze), health], max_epochs=4)
    found = values(run, f"health/statistics_change/net.{TINY_RESNET_UNITS[0]}")
    expected = [
        float(((mean - old).square().sum() + (std - before).square().sum()).sqrt() / before.norm())
        for (old, before), (mean, std) in pairwise(health.kept)
    ]
    assert found == pytest.approx(expected, rel=1e-4)
    assert found[-2:] == [0.0, 0.0]
    assert min(found[:2]) > 0


def test_filters_that_die_and_come_back_are_entered_with_their_epochs(fit: Any) -> None:
    health = FilterHealth(curves="all")
    actions = {"epoch1": push_bias(slice(0, 4), -1e4), "epoch3": push_bias(slice(0, 2), 1.0)}
    run = fit([AtEpoch(**actions), health], plain(lr=1e-3), max_epochs=5)
    assert values(run, "health/dead_filters/net.conv2") == pytest.approx([0, 0, 4 / 6, 4 / 6, 2 / 6, 2 / 6])
    assert values(run, "health/died/net.conv2") == [0, 4, 0, 0, 0]
    assert values(run, "health/revived/net.conv2") == [0, 0, 0, 2, 0]
    assert values(run, "health/dead_total") == [0, 0, 4, 4, 2, 2]
    found = {death.filter: death for death in health.deaths if death.layer == "net.conv2"}
    assert {number: (death.epoch, death.back_epoch, death.times) for number, death in found.items()} == {
        0: (1, 3, 1), 1: (1, 3, 1), 2: (1, None, 1), 3: (1, None, 1),
    }  # fmt: skip
    text = run.events.Tensors("health/deaths/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert "| net\\.conv2 | 0 | 1 | 3 | 1 |" in text
    assert "| net\\.conv2 | 2 | 1 |  | 1 |" in text


class Saturating(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3), nn.Linear(6, 3)
        nn.init.zeros_(self.conv2.weight)
        nn.init.ones_(self.conv2.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.conv1(x))
        return self.head(self.conv2(x).mean((2, 3)))


def test_saturated_and_constant_filters(fit: Any) -> None:
    def saturate(net: nn.Module) -> None:
        net.conv1.bias[:3] = torch.tensor([50.0, -50.0, 50.0])

    run = fit([AtEpoch(epoch0=saturate), FilterHealth(curves="all")], Classifier(Saturating(), lr=0.0))
    assert values(run, "health/saturated_filters/net.conv1") == [0, 0.75, 0.75]
    assert values(run, "health/constant_filters/net.conv2") == [1, 1, 1]
    assert values(run, "health/dead_filters/net.conv2") == [0, 0, 0]
    assert "health/saturated_filters/net.conv2" not in run.events.Tags()["scalars"]


class SpoilsAfterTraining(L.Callback):
    """One weight of one filter becomes NaN after the second epoch's last step."""

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == 1:
            with torch.no_grad():
                pl_module.net.conv2.weight[2, 0, 1, 1] = float("nan")


def test_nan_is_counted_and_spoils_nothing_else(fit: Any) -> None:
    run = fit([SpoilsAfterTraining(), FilterHealth(curves="all")], plain())
    net, (x, y) = run.module.net.eval(), images(30, seed=1)
    first = torch.relu(net.conv1(x))
    second = torch.relu(net.conv2(first))
    (gradient,) = torch.autograd.grad(F.cross_entropy(net.head(second.amax((2, 3))), y, reduction="sum"), [first])
    spoiled, of_gradient = (int((~torch.isfinite(t)).sum()) for t in (second, gradient))
    assert min(spoiled, of_gradient) > 0
    assert values(run, "health/nonfinite/net.conv2") == [0, 0, spoiled]
    assert values(run, "health/nonfinite/net.conv1") == [0, 0, 0]
    assert values(run, "health/nonfinite_gradients/net.conv1") == [0, 0, of_gradient]
    assert values(run, "health/nonfinite_total")[-1] == spoiled + of_gradient
    assert len(values(run, "health/dead_filters/net.conv2")) == 2
    assert len(values(run, "health/dead_filters/net.conv1")) == 3
    assert len(values(run, "health/gradient_rms/net.conv1")) == 2
    for tag in run.events.Tags()["scalars"]:
        if tag.startswith("health/"):
            assert all(math.isfinite(value) for value in values(run, tag)), tag


class PartlyTrained(Classifier):
    """The second convolution is left out of the optimizer, or frozen, or shrinks by weight decay alone."""

    def __init__(self, how: str) -> None:
        super().__init__(plain().net)
        self.how = how
        if how == "frozen":
            self.net.conv2.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = F.relu(self.net.conv2(torch.relu(self.net.conv1(x))))
        hidden = hidden.amax((2, 3))
        if self.training and self.how == "decay":  # the gradient does not reach conv2, its decay does
            hidden = hidden.detach() + 0 * hidden
        return self.net.head(hidden) + self.net.conv1(x).mean((1, 2, 3))[:, None] * torch.tensor([1.0, 0, 0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        kept = [p for n, p in self.named_parameters() if "conv2" not in n or self.how != "forgotten"]
        return torch.optim.SGD(kept, lr=0.05, weight_decay=0.1)


@pytest.mark.parametrize("how", ["forgotten", "decay", "none", "frozen"])
def test_a_layer_that_does_not_learn_though_it_should_is_flagged(fit: Any, how: str) -> None:
    run = fit([FilterHealth(curves="all")], PartlyTrained(how))
    tags = run.events.Tags()["scalars"]
    assert values(run, "health/not_learning/net.conv1") == [0, 0]
    if how == "frozen":  # from the beginning, so on purpose
        assert "health/not_learning/net.conv2" not in tags
        assert values(run, "health/update_ratio/net.conv2") == [0, 0]
    else:
        assert values(run, "health/not_learning/net.conv2") == [float(how != "none")] * 2
    if how == "decay":
        assert min(values(run, "health/update_ratio/net.conv2")) > 0.01


def test_a_layer_frozen_after_it_has_learned_is_flagged(fit: Any) -> None:
    freeze = AtEpoch(epoch2=lambda net: net.conv2.requires_grad_(False))
    module = Classifier(plain().net)
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.05)
    run = fit([freeze, FilterHealth(curves="all")], module, max_epochs=4)
    assert values(run, "health/not_learning/net.conv2") == [0, 0, 1, 1]


def test_nothing_moves_no_layer_is_singled_out(fit: Any) -> None:
    run = fit([FilterHealth(curves="all")], plain(lr=0.0))
    for layer in LAYERS:
        assert values(run, f"health/not_learning/{layer}") == [0, 0]
        assert values(run, f"health/update_ratio/{layer}") == [0, 0]


def test_without_gradients_or_without_a_loss_the_rest_is_measured(fit: Any, caplog: Any) -> None:
    def unlabelled(samples: tuple) -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(samples[0]), 8)

    heldout = convscope.HeldOut(unlabelled(images(30)))
    for arguments in ({"gradients": False}, {"heldout": heldout}):
        run = fit([FilterHealth(curves="all", **arguments)], plain())
        written = {tag.split("/")[1] for tag in run.events.Tags()["scalars"] if tag.startswith("health/")}
        assert "update_ratio" in written
        assert not {tag for tag in written if "gradient" in tag}


def test_a_layer_that_does_not_reach_the_loss_has_no_gradient(fit: Any) -> None:
    class SideBranch(Plain):
        def __init__(self) -> None:
            super().__init__(channels=3)
            self.side = nn.Conv2d(3, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch.relu(self.side(x))
            return super().forward(x)

    run = fit([FilterHealth(curves="all")], Classifier(SideBranch()))
    assert "health/gradient_rms/net.side" not in run.events.Tags()["scalars"]
    assert len(values(run, "health/activation_rms/net.side")) == 3
    assert values(run, "health/not_learning/net.side") == [1, 1]
    assert values(run, "zz_convscope/errors")[-1] == 0


def checkpointed(fit: Any, folder: Path, health: FilterHealth, **arguments: Any) -> Any:
    saver = ModelCheckpoint(folder, save_last=True, every_n_train_steps=arguments.pop("every", None))
    actions = {"epoch1": push_bias(slice(0, 4), -1e4), "epoch3": push_bias(slice(0, 2), 1.0)}
    return fit([AtEpoch(**actions), health, saver], plain(lr=1e-3), **arguments)


def kept_weights(path: Path, health: FilterHealth) -> dict[str, torch.Tensor | None]:
    return torch.load(path, weights_only=True)["callbacks"][health.state_key]["weights"]["before"]


def test_a_resumed_run_is_the_run_that_was_never_stopped(fit: Any, tmp_path: Path) -> None:
    whole, first, second = (FilterHealth(curves="all") for _ in range(3))
    run = checkpointed(fit, tmp_path / "whole", whole, max_epochs=4)
    checkpointed(fit, tmp_path / "part", first, max_epochs=2)
    path = tmp_path / "part" / "last.ckpt"
    assert kept_weights(path, first) == dict.fromkeys(LAYERS)  # the model's own, so not held twice
    resumed = checkpointed(fit, tmp_path / "rest", second, max_epochs=4, ckpt_path=path)
    for quantity in ("update_ratio", "not_learning", "died", "revived", "dead_filters"):
        tag = f"health/{quantity}/net.conv2"
        assert resumed.curve(tag) == run.curve(tag)[-2:]
    assert second.deaths == whole.deaths


def test_a_checkpoint_between_checks_keeps_the_weights_of_the_last_one(fit: Any, tmp_path: Path) -> None:
    first, second = Caught(curves="all"), Caught(curves="all")
    checkpointed(fit, tmp_path / "part", first, every=6, max_steps=6)
    path = tmp_path / "part" / "last.ckpt"
    before = first.weights[-1]["net.conv2"]
    assert torch.equal(kept_weights(path, first)["net.conv2"], before.flatten())
    run = checkpointed(fit, tmp_path / "rest", second, max_epochs=2, ckpt_path=path)
    expected = (second.weights[0]["net.conv2"] - before).norm() / before.norm()
    assert values(run, "health/update_ratio/net.conv2")[0] == pytest.approx(float(expected), rel=1e-4)


def test_a_new_fit_begins_anew(fit: Any) -> None:
    health = FilterHealth(curves="all")
    fit([AtEpoch(epoch0=push_bias(slice(0, 4), -1e4)), health], plain(lr=1e-3))
    assert len(health.deaths) == 4
    run = fit([health], plain(lr=1e-3))
    assert health.deaths == []
    assert len(values(run, "health/died/net.conv2")) == 2


def test_spectral_norm_is_left_alone(fit: Any) -> None:
    def module() -> Classifier:
        made = plain()
        torch.nn.utils.parametrizations.spectral_norm(made.net.conv2)
        return made

    watched, bare = fit([FilterHealth(curves="all")], module()), fit([], module())
    for name, tensor in bare.module.state_dict().items():
        assert torch.equal(tensor, watched.module.state_dict()[name]), name
    assert len(values(watched, "health/update_ratio/net.conv2")) == 2


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="loss='mse'"):
        FilterHealth(loss="mse")


def test_half_precision(fit: Any) -> None:
    run = fit([FilterHealth(curves="all")], plain(), data=loaders(), precision="bf16-mixed")
    assert values(run, "zz_convscope/errors")[-1] == 0
    assert all(value > 0 for value in values(run, "health/gradient_rms/net.conv1"))
