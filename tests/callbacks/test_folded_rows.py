"""Through a real trainer: networks that fold views into the batch, whose names collide, or that run as they please."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from convscope import ClassFilters, FilterImportance, LayerProbe, LayerSimilarity
from convscope.capture.data.heldout import HeldOut
from tests.callbacks.conftest import Classifier, Run, loaders
from tests.networks import TinyResNet, images
from tests.support.folding import FOLDS, Folding

Fit = Callable[..., Run]
LAYER = "net.body.layer1.0.conv2"


def augmented(fold: str) -> Folding:
    torch.manual_seed(0)
    rows, merge, _ = FOLDS[fold]
    return Folding(rows, merge, TinyResNet(4, classes=3))


@pytest.mark.parametrize("fold", ["augmentation", "stacked", "tiles and flips"])
def test_probes_read_each_sample_from_its_own_views(fit: Fit, fold: str) -> None:
    """Features by a plain hook, arranged by hand, probed by scikit-learn."""
    outer, inner = FOLDS[fold][2]
    probe = LayerProbe(layers=LAYER, heldout=HeldOut(size=30, batch_size=7))
    inputs, labels = images(30, seed=1)
    inputs[:, 0] += 4 * labels[:, None, None]  # easy to tell, if one looks at the right rows
    run = fit([probe], Classifier(augmented(fold)), (loaders()[0], DataLoader(TensorDataset(inputs, labels), 8)))
    accuracy = run.curve(f"probe/accuracy/{LAYER}")[-1][1]
    features: list[torch.Tensor] = []
    block = run.module.net.body.layer1[0]
    handle = block.bn2.register_forward_hook(lambda m, a, output: features.append(output.clone()))
    with torch.no_grad():
        run.module.eval()(inputs)
    handle.remove()
    pooled = features[0].mean((2, 3)).view(outer, 30, inner, -1).mean((0, 2)).double().numpy()
    expected = cross_val_predict(RidgeClassifier(alpha=1e-3), pooled, labels.numpy(), cv=LeaveOneOut())
    assert accuracy == pytest.approx(float((expected == labels.numpy()).mean()), abs=0.1)
    assert accuracy > 0.9


class Output(nn.Module):
    """Its second convolution is called like the model's output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.output, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 3), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.output(F.relu(self.conv(x)))).mean((2, 3)))


class TopLevel(Classifier):
    """The network's layers are the module's own, so that their names have no prefix."""

    def __init__(self) -> None:
        super().__init__(nn.Identity())
        torch.manual_seed(0)
        for name, child in Output().named_children():
            self.add_module(name, child)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Output.forward(self, x)  # type: ignore[arg-type]


def test_a_convolution_called_output_does_not_stand_for_the_models(fit: Fit) -> None:
    callbacks: list[Any] = [
        ClassFilters(), LayerSimilarity(), FilterImportance(criterion="output_correlation"), FilterImportance(),
    ]  # fmt: skip
    for callback in callbacks:
        callback.on_error = "raise"
    run = fit(callbacks, TopLevel(), max_epochs=1)
    tags = set(run.events.Tags()["scalars"])
    assert {"similarity/to_output/conv", "similarity/to_output/output"} <= tags
    assert "similarity/to_previous/output@model" in tags
    inputs, _ = images(30, seed=1)
    module = run.module.eval()
    with torch.no_grad():
        pooled = F.relu(module.output(F.relu(module.conv(inputs)))).mean((2, 3))
        logits = module(inputs)
    correlation = torch.corrcoef(torch.cat([pooled, logits], 1).T)[:5, 5:]
    strongest = float(correlation.nan_to_num(-1).amax(0).mean())
    assert run.curve("class_filters/strongest/output")[-1][1] == pytest.approx(strongest, abs=1e-3)


def test_the_models_output_keeps_its_tag_where_nothing_else_has_it(fit: Fit) -> None:
    run = fit([LayerSimilarity()], max_epochs=1)
    assert "similarity/to_previous/output" in run.events.Tags()["scalars"]


class Shuffled(TinyResNet):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).flip(0)


def test_outputs_in_another_order_have_no_loss_and_are_no_layer(fit: Fit, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        run = fit(
            [FilterImportance(), LayerProbe(), LayerSimilarity()], Classifier(Shuffled(4, classes=3)), max_epochs=1
        )
    tags = run.events.Tags()["scalars"]
    assert not [tag for tag in tags if tag.startswith("importance") or tag.endswith("/output")]
    assert "probe/accuracy/net.conv1" in tags
    assert "the model's output gives rows whose samples cannot be determined" in caplog.text
    assert caplog.text.count("so it is not observed as a layer") == 1
    assert "importance is skipped" in caplog.text


class Skips(nn.Module):
    """Runs its second convolution for dark batches only, and then reuses the one activation module."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.act, self.head = nn.ReLU(), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dark = bool(x.mean() < 0.5)
        x = self.act(self.conv1(x))
        x = self.act(self.conv2(x)) if dark else x
        return self.head(self.act(self.conv3(x)).mean((2, 3)))


def test_a_layer_that_runs_for_some_samples_only_is_left_out_with_one_sentence(
    fit: Fit, caplog: pytest.LogCaptureFixture
) -> None:
    inputs, labels = images(24, seed=1)
    inputs[12:] += 3
    data = DataLoader(TensorDataset(inputs, labels), 6)
    heldout = HeldOut(size=24, batch_size=6, stratify=False)
    run = fit(
        [FilterImportance(heldout=heldout), LayerProbe(heldout=heldout)], Classifier(Skips()), (loaders()[0], data)
    )
    tags = run.events.Tags()["scalars"]
    assert not [tag for tag in tags if tag.endswith("/net.conv2")]
    for layer in ("net.conv1", "net.conv3"):
        assert {f"importance/gini/{layer}", f"probe/accuracy/{layer}"} <= set(tags)
    said = [record.message for record in caplog.records if "net.conv2" in record.message]
    assert len(said) == 1
    assert "ran for some of the held-out samples only; it is not measured" in said[0]


class Auxiliary(TinyResNet):
    """An auxiliary head that is computed in evaluation too."""

    def __init__(self) -> None:
        super().__init__(4, classes=3)
        self.auxiliary = nn.Conv2d(4, 3, 1)

    def forward(self, x: torch.Tensor) -> Any:
        x = F.relu(self.bn1(self.conv1(x)))
        auxiliary = self.auxiliary(x).mean((2, 3))
        logits = self.fc(self.layer2(self.layer1(x)).mean((2, 3)))
        return logits if self.training else {"logits": logits, "auxiliary": auxiliary}


class OfParts(Classifier):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0])["logits"], batch[1]))


def test_an_auxiliary_head_costs_its_own_gradient_alone(fit: Fit, caplog: pytest.LogCaptureFixture) -> None:
    run = fit([FilterImportance(), LayerProbe()], OfParts(Auxiliary()), max_epochs=1)
    tags = run.events.Tags()["scalars"]
    assert "probe/accuracy/net.auxiliary" in tags
    assert "importance/gini/net.auxiliary" not in tags
    assert "importance/gini/net.layer1.0.conv1" in tags
    assert caplog.text.count("no gradient of the loss reaches net.auxiliary") == 1


def test_raw_and_activated_convolutions_beside_each_other(fit: Fit) -> None:
    """Two observers of one layer's name get each its own activation."""
    importance = [
        FilterImportance(criterion="activation", observe_at=at, name=at, on_error="raise", curves="all")
        for at in ("conv", "activation")
    ]
    run = fit(importance, max_epochs=1)
    inputs, _ = images(30, seed=1)
    net = run.module.eval().net
    with torch.no_grad():
        raw = net.conv1(inputs)
        after = F.relu(net.bn1(raw))
    for name, expected in (("conv", raw), ("activation", after)):
        assert run.curve(f"{name}/mean/net.conv1")[-1][1] == pytest.approx(float(expected.abs().mean()), rel=1e-3)
