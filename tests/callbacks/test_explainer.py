"""The explainer through a real fit: what is written and saved, that training is untouched, and what it refuses."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from convscope import Explainer, ExplainerNetwork, HeldOut
from tests.callbacks.conftest import Classifier
from tests.callbacks.test_no_observer_effect import train
from tests.capture.test_isolation import same
from tests.networks import TinyResNet, images
from tests.support import forked

LAYER = "net.layer2.0.conv1"


def explainer(**arguments: Any) -> Explainer:
    defaults = {"layers": LAYER, "steps": 3, "every_n_epochs": 1, "batch_size": 8, "filters": 5, "on_error": "raise"}
    return Explainer(**{**defaults, **arguments})


def latest(run: Any, quantity: str, layer: str = LAYER) -> float:
    return float(run.trainer.callback_metrics[f"explainer/{quantity}/{layer}"])


def test_what_is_written_and_saved(fit: Any, tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(dirpath=tmp_path / "kept")
    callback = explainer()
    run = fit([callback, checkpoint])
    expected = {"p", "error", "agreement", "error_change", "instability_proxy", "original_instability_proxy", "steps"}
    found = {tag.split("/")[1] for tag in run.events.Tags()["scalars"] if tag.startswith("explainer/")}
    assert found == expected
    assert [step for step, _ in run.curve(f"explainer/p/{LAYER}")] == [3, 7]  # none before training
    assert {f"explainer/parts/{LAYER}", "explainer/map/error"} <= set(run.events.Tags()["images"])
    names = ["explainer-epoch=0.pt", "explainer-epoch=1.pt"]
    assert sorted(path.name for path in (tmp_path / "kept").glob("explainer*")) == names
    saved = torch.load(tmp_path / "kept" / names[1], weights_only=True)
    assert saved["about"] == {"layer": LAYER, "target": "net.layer2.0.conv2", "epoch": 1, "step": 7}
    network = ExplainerNetwork.load(callback.saved[-1])
    assert float(network.p.detach()) == pytest.approx(latest(run, "p"))
    assert network.filters == 5


class Elsewhere(Logger):
    """A logger without a folder for each run, as W&B's and MLflow's are."""

    name, version, save_dir = "mine", "abc", ""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.save_dir = str(folder)

    def log_metrics(self, *arguments: Any, **named: Any) -> None: ...

    def log_hyperparams(self, *arguments: Any, **named: Any) -> None: ...


def test_without_checkpoints_it_lies_in_the_folder_of_the_run(fit: Any, tmp_path: Path) -> None:
    callback = explainer(proxy_images=0)
    fit([callback], max_epochs=1, logger=Elsewhere(tmp_path))
    assert callback.saved == [tmp_path / "mine" / "abc" / "checkpoints" / "explainer-epoch=0.pt"]
    assert ExplainerNetwork.load(callback.saved[0]).filters == 5


def test_training_is_bitwise_the_same(tmp_path: Path) -> None:
    without = train([], tmp_path / "without", 0)
    callback = Explainer(layers="*.layer2.0.conv1", every_n_epochs=1, on_start=True, steps=3, images=images(20))
    observed = train([callback], tmp_path / "with", 0)
    assert len(callback.history.rows) == 4
    assert [key for key in without if not same(without[key], observed[key])] == []


def test_it_goes_on_from_the_last_check_or_begins_afresh(fit: Any) -> None:
    def errors(warm_start: bool) -> list[float]:
        torch.manual_seed(0)
        callback = explainer(warm_start=warm_start, steps=15, proxy_images=0)
        run = fit([callback], Classifier(lr=0.0), max_epochs=2)
        return [value for _, value in run.curve(f"explainer/error/{LAYER}")]

    warm, cold = errors(True), errors(False)
    assert warm[0] == cold[0] == pytest.approx(cold[1], rel=0.2)  # batch statistics move while training
    assert warm[1] < cold[1] - 0.01


def test_a_resumed_run_goes_on_with_its_explainer(fit: Any, tmp_path: Path) -> None:
    def run(epochs: int, path: Any = None) -> Any:
        torch.manual_seed(0)
        kept = ModelCheckpoint(dirpath=tmp_path / f"kept{epochs}{path is None}", save_last=True)
        return fit([explainer(proxy_images=0), kept], Classifier(lr=0.0), max_epochs=epochs, ckpt_path=path), kept

    whole, _ = run(2)
    _, kept = run(1)
    resumed, _ = run(2, kept.last_model_path)
    for quantity in ("p", "error"):
        assert latest(resumed, quantity) == pytest.approx(latest(whole, quantity), rel=1e-5)


def test_the_budget_is_said_and_kept(fit: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    began = time.perf_counter()
    run = fit([explainer(steps=10**6, seconds=0.3, proxy_images=0)], max_epochs=1)
    assert time.perf_counter() - began < 60
    assert 0 < latest(run, "steps") < 10**6
    text = caplog.text
    said = (
        f"distils an explainer of {LAYER} (next features: net.layer2.0.conv2) at each check, in at most 1000000 steps"
    )
    assert said in text
    assert f"0.3 s were over after {int(latest(run, 'steps'))} of 1000000 steps" in text


@pytest.mark.parametrize(
    ("arguments", "target"),
    [
        ({}, "net.layer2.0.conv2"),
        ({"target": "output"}, "output"),
        ({"layers": "net.conv1", "target": LAYER}, LAYER),
        ({"layers": None}, "output"),  # of the last layer
    ],
)
def test_next_features(fit: Any, arguments: dict[str, Any], target: str) -> None:
    callback = explainer(proxy_images=0, **arguments)
    run = fit([callback], max_epochs=1)
    assert torch.load(callback.saved[0], weights_only=True)["about"]["target"] == target
    (agreed,) = (float(v) for key, v in run.trainer.callback_metrics.items() if key.startswith("explainer/agreement"))
    assert 0 <= agreed <= 1


def test_several_layers_have_a_file_each(fit: Any) -> None:
    callback = explainer(layers=["net.conv1", LAYER], max_layers=None, proxy_images=0)
    run = fit([callback], max_epochs=1)
    assert [path.name for path in callback.saved] == [f"explainer-epoch=0-{name}.pt" for name in ("net.conv1", LAYER)]
    assert latest(run, "error", "net.conv1") != latest(run, "error")


def test_training_images_are_distilled_on_and_held_out_ones_judged(fit: Any) -> None:
    def error(**arguments: Any) -> float:
        torch.manual_seed(0)
        run = fit([explainer(proxy_images=0, steps=12, **arguments)], Classifier(lr=0.0), max_epochs=1)
        return latest(run, "error")

    others = images(40, seed=7)
    assert error(images=others) != error()
    assert error(images=HeldOut(others, size=10)) != error(images=others)


def centre(inputs: torch.Tensor) -> torch.Tensor:
    place = int(inputs[0].sum(0).argmax())
    return torch.tensor([[place // 8, place % 8]])


def test_landmarks_give_instabilities_without_a_proxy(fit: Any) -> None:
    run = fit([explainer(landmarks=centre)], max_epochs=1)
    assert 0 <= latest(run, "instability") < 1
    assert 0 < latest(run, "original_instability") < 1
    assert not any("proxy" in key for key in run.trainer.callback_metrics)


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_half_precision_is_explained_in_single(fit: Any, precision: str) -> None:
    run = fit([explainer()], max_epochs=1, precision=precision)
    assert 0 < latest(run, "error") < 10
    assert 0 <= latest(run, "agreement") <= 1


def test_without_classes_nothing_is_compared(fit: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    pictures, _ = images(30)
    data = tuple(DataLoader(TensorDataset(pictures, pictures.mean((2, 3))), 8) for _ in range(2))

    class Regressor(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return nn.functional.mse_loss(self(batch[0]), batch[1])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self(batch[0])

    run = fit([explainer()], Regressor(TinyResNet(4, classes=3)), data, max_epochs=1)
    assert latest(run, "error") > 0
    assert "explainer/agreement/" + LAYER not in run.trainer.callback_metrics
    assert "compares no predictions" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "net.conv1"}, r"target='net.conv1' does not run after net.layer2.0.conv1"),
        ({"target": "net.nothing"}, r"'net.nothing' matches no layer"),
        ({"layers": "net.fc"}, r"it can measure none of the chosen layers: net.fc"),
    ],
)
def test_layers_that_cannot_be_explained_are_refused(fit: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        fit([explainer(**arguments)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": 3}, "target=3: give the name of a layer, 'output', or None"),
        ({"samples": 7}, "samples=7: give a whole number of held-out samples, at least 8"),
        ({"steps": 0}, "steps=0: give a whole number of steps, at least 1"),
        ({"seconds": 0}, "seconds=0: give seconds, above 0"),
        ({"interpretable": -1}, "interpretable=-1: give a finite number, at least 0"),
        ({"filter_weight": "1"}, "filter_weight='1': give a finite number, at least 0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0: give a finite number, above 0"),
        ({"filters": 0}, "filters=0: give a whole number of filters, at least 1, or None for as many as"),
        ({"warm_start": "no"}, "warm_start='no': give True or False"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Explainer(**arguments)


PROGRAM = """
import json, sys, lightning as L
from convscope.recipes._program import leave_the_processes
from tests.callbacks.conftest import Classifier, loaders
from tests.callbacks.test_explainer import HeldOut, explainer
folder, devices = sys.argv[1], int(sys.argv[2])
L.seed_everything(0, verbose=False)
model = Classifier(lr=0.0)
for norm in model.modules():
    if hasattr(norm, "momentum"):
        norm.momentum = 0.0  # each process sees other training batches
callback = explainer(heldout=HeldOut(size=29, batch_size=4), proxy_images=10)
trainer = L.Trainer(
    accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_epochs=1, callbacks=[callback],
    logger=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    enable_checkpointing=False,
)
trainer.fit(model, *loaders())
found = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("explainer")}
open(f"{folder}/{devices}-{trainer.global_rank}.json", "w").write(json.dumps([found, len(callback.saved)]))
leave_the_processes()
"""


def test_two_processes_give_the_values_of_one(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    for devices in (1, 2):
        forked.run(str(tmp_path / "program.py"), tmp_path, devices, folder=tmp_path, ranks=devices)
    one, zero, other = (json.loads((tmp_path / f"{run}.json").read_text()) for run in ("1-0", "2-0", "2-1"))
    assert len(one[0]) == 7
    for found in (zero, other):
        assert found[0] == pytest.approx(one[0], rel=1e-3, abs=1e-4)
    assert [one[1], zero[1], other[1]] == [1, 1, 0]  # the main process writes
