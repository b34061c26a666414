"""The filter loss in real training: the gradient that is added, in any precision, accumulated, on two processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from convscope import FilterLoss, InterpretableConv, PartInterpretability
from convscope.metrics.functional import filter_loss, part_maps
from tests.callbacks.conftest import Classifier
from tests.networks import images
from tests.support import forked


class PartNet(nn.Module):
    """An ordinary convolution, an interpretable one, and a read-out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.parts = InterpretableConv(nn.Conv2d(4, 5, 3, padding=1))
        self.head = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.parts(torch.relu(self.conv(x))).amax((2, 3)))


def bright(batches: int = 2) -> DataLoader:
    pictures, labels = images(16 * batches)
    return DataLoader(TensorDataset(30 * pictures, labels), 16)


def module() -> Classifier:
    torch.manual_seed(0)
    return Classifier(PartNet(), lr=1e-3)


class Gradients(L.Callback):
    """What the first optimizer step has of gradients."""

    def __init__(self) -> None:
        self.first: dict[str, torch.Tensor] = {}

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        self.first = self.first or {name: p.grad.clone() for name, p in pl_module.named_parameters()}  # type: ignore


def by_hand(weight: float, batches: int = 1) -> dict[str, torch.Tensor]:
    model = module()
    for pictures, labels in list(bright())[:batches]:
        loss = nn.functional.cross_entropy(model(pictures), labels)
        loss = loss + weight * filter_loss(part_maps(model.net.parts.maps)).mean()
        (loss / batches).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize(("arguments", "batches"), [({}, 1), ({"accumulate_grad_batches": 2}, 2)])
def test_the_gradient_is_that_of_the_sum_by_hand(fit: Any, arguments: dict[str, Any], batches: int) -> None:
    seen = Gradients()
    run = fit([FilterLoss(2.0, "as_is"), seen], module(), (bright(), bright()), max_epochs=1, **arguments)
    expected, without = by_hand(2.0, batches), by_hand(0.0, batches)
    for name, gradient in seen.first.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)
    assert (expected["net.parts.conv.weight"] - without["net.parts.conv.weight"]).abs().max() > 1e-4
    assert float(run.trainer.callback_metrics["filter_loss/net.parts"]) < 0
    assert run.module.net.parts.maps is None


def test_a_weight_of_zero_logs_alone(fit: Any) -> None:
    seen = Gradients()
    run = fit([FilterLoss(0.0), seen], module(), (bright(), bright()), max_epochs=1)
    for name, gradient in by_hand(0.0).items():
        torch.testing.assert_close(seen.first[name], gradient, rtol=1e-4, atol=1e-7)
    assert "filter_loss/net.parts" in run.trainer.callback_metrics


def test_it_lowers_the_filter_loss_that_is_measured_on_other_images(fit: Any) -> None:
    def measured(weight: float) -> float:
        measure = PartInterpretability(layers="net.parts.conv", scale="total", proxy_images=0, on_error="raise")
        model = module()
        model.lr = 3e-3
        run = fit([FilterLoss(weight), measure], model, (bright(4), bright(4)), max_epochs=4)
        return float(run.trainer.callback_metrics["parts/filter_loss/net.parts.conv"])

    assert measured(1.0) < measured(0.0) - 0.1


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_any_precision(fit: Any, precision: str) -> None:
    run = fit([FilterLoss(1.0)], module(), (bright(), bright()), max_epochs=1, precision=precision)
    assert all(bool(p.isfinite().all()) for p in run.module.parameters())
    assert float(run.trainer.callback_metrics["filter_loss/net.parts"]) < 0


def test_loss_scaling_is_followed(fit: Any) -> None:
    """Gradients in float16 are scaled, where there is no GPU too."""
    seen = Gradients()
    precision = L.pytorch.plugins.MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
    arguments = {"plugins": [precision], "max_epochs": 1}
    fit([FilterLoss(2.0, "as_is"), seen], module(), (bright(), bright()), **arguments)
    expected, scaled = by_hand(2.0)["net.parts.conv.weight"], seen.first["net.parts.conv.weight"]
    unscaled = scaled / min(1024.0, float((scaled.norm() / expected.norm()).round()))
    torch.testing.assert_close(unscaled, expected, rtol=0.1, atol=0.02 * float(expected.abs().max()))


@pytest.mark.slow
def test_a_compiled_module_is_trained_alike(fit: Any) -> None:
    plain, compiled = module(), module()
    compiled.net = torch.compile(compiled.net, backend="aot_eager")  # type: ignore[assignment]
    for model in (plain, compiled):
        run = fit([FilterLoss(2.0)], model, (bright(), bright()), max_epochs=1)
        assert "filter_loss/net.parts" in run.trainer.callback_metrics
    for one, other in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


class ByHand(Classifier):
    """Optimizes by hand."""

    def __init__(self) -> None:
        super().__init__(PartNet())
        self.automatic_optimization = False


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Classifier, "FilterLoss found no InterpretableConv in Classifier; wrap a convolution of it"),
        (ByHand, "this module optimizes by hand; add weight"),
    ],
)
def test_what_it_cannot_train_is_refused(fit: Any, model: Any, message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        fit([FilterLoss()], model())


@pytest.mark.parametrize("weight", [-1, float("nan"), "0.1", True])
def test_wrong_weights_are_named(weight: Any) -> None:
    with pytest.raises(ValueError, match=r"weight=.*: give a finite number, at least 0"):
        FilterLoss(weight)


PROGRAM = """
import sys, torch, lightning as L
from convscope.recipes._program import leave_the_processes
from tests.callbacks.test_filter_loss import FilterLoss, bright, module
L.seed_everything(0, verbose=False)
trainer = L.Trainer(
    accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, callbacks=[FilterLoss(2.0)], logger=False,
    enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
)
model = module()
trainer.fit(model, bright(4))
torch.save(model.state_dict(), f"{sys.argv[1]}/{trainer.global_rank}.pt")
leave_the_processes()
"""


def test_two_processes_train_one_network(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    forked.run(str(tmp_path / "program.py"), tmp_path, folder=tmp_path, ranks=2)
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(one["net.parts.conv.weight"], module().state_dict()["net.parts.conv.weight"])
