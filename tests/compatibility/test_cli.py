"""LightningCLI builds every callback from YAML, and builds them again from the configuration it saved."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from torch import nn

import convscope
from convscope.callbacks.parts.layer_observer import LayerObserver
from tests.callbacks.conftest import Classifier, loaders
from tests.networks import Plain

cli = pytest.importorskip("lightning.pytorch.cli")
pytest.importorskip("jsonargparse")

CALLBACKS = [
    kind
    for kind in (getattr(convscope, name) for name in convscope.__all__)
    if inspect.isclass(kind)
    and issubclass(kind, L.Callback)
    and not inspect.isabstract(kind)
    and kind is not convscope.FilterLoss  # for networks with layers of its own
]
SHARED = {"class_path": "convscope.HeldOut", "init_args": {"size": 24, "batch_size": 10}}
LOSS = "torch.nn.functional.cross_entropy"
OBSERVER: dict[str, Any] = {
    "layers": ["*.conv1", "re:conv2$"],
    "heldout": SHARED,
    "every_n_epochs": 1,
    "max_layers": 8,
    "max_overhead": None,
    "pictures": False,
    "on_error": "raise",
}


class Model(Classifier):
    def __init__(self, width: int = 4) -> None:
        super().__init__(Plain(channels=3))
        self.width = width


class Data(L.LightningDataModule):
    def train_dataloader(self) -> Any:
        return loaders()[0]

    def val_dataloader(self) -> Any:
        return loaders()[1]


def configuration(folder: Path) -> dict[str, Any]:
    listed = [
        {"class_path": f"convscope.{kind.__name__}", "init_args": OBSERVER if issubclass(kind, LayerObserver) else {}}
        for kind in CALLBACKS
        if kind is not convscope.Explainer
    ]
    listed += [
        {"class_path": "convscope.Explainer", "init_args": {**OBSERVER, "steps": 2}},
    ]
    logger = {
        "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
        "init_args": {"save_dir": str(folder), "name": "cli"},
    }
    trainer = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": logger,
        "callbacks": listed,
    }
    return {"seed_everything": 1, "trainer": trainer}


def run(path: Path) -> Any:
    return cli.LightningCLI(Model, Data, args=["fit", "--config", str(path)])


def test_every_callback_from_yaml_and_again_from_the_saved_configuration(tmp_path: Path) -> None:
    written = tmp_path / "written.yaml"
    written.write_text(yaml.safe_dump(configuration(tmp_path)))
    first = run(written)
    observers = [c for c in first.trainer.callbacks if isinstance(c, LayerObserver)]
    assert {type(c) for c in observers} == {kind for kind in CALLBACKS if issubclass(kind, LayerObserver)}
    assert len(observers) == len({type(c) for c in observers})
    assert all(c.layers == ["*.conv1", "re:conv2$"] and c.on_error == "raise" for c in observers)
    assert len([c.heldout for c in observers if c.heldout.ready]) == 1  # equal held-out sets are one, read once
    found = {name: float(value) for name, value in first.trainer.callback_metrics.items()}
    assert found["zz_convscope/errors"] == 0.0
    again = run(Path(first.trainer.log_dir) / "config.yaml")
    for name, value in again.trainer.callback_metrics.items():
        if name not in ("zz_convscope/seconds", "zz_convscope/overhead"):
            assert float(value) == pytest.approx(found[name], nan_ok=True), name


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("LayerProbe", {"probe": "knn", "pooling": 2, "name": "grid"}),
        (
            "FilterImportance",
            {"criterion": "gradient_activation", "loss": "torch.nn.functional.cross_entropy", "top": 0.2},
        ),
        ("FilterCorrelation", {"redundant_threshold": 0.5, "max_observations": None}),
        ("DriftAlert", {"actions": {"critical": ["log", {"jsonl": {"path": "a.jsonl"}}]}}),
        ("AblationOracle", {"criteria": ["taylor", "activation"], "ends": 2, "every_n_epochs": 3}),
        ("PartInterpretability", {"landmarks": "keypoints", "scale": "total", "filters": None}),
        ("PartInterpretability", {"landmarks": 2, "images": 300}),
        ("FilterLoss", {"weight": 0.5, "scale": "as_is"}),
        ("Explainer", {"target": "output", "warm_start": False, "landmarks": "keypoints", "filters": 16}),
        ("RepresentationDrift", {"reference": "model.ckpt", "debiased": True}),
    ],
)
def test_own_arguments_from_yaml(name: str, arguments: dict[str, Any]) -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--callback", type=L.Callback)
    config = parser.parse_object({"callback": {"class_path": f"convscope.{name}", "init_args": arguments}})
    made = parser.instantiate_classes(config).callback
    assert type(made) is getattr(convscope, name)
    for argument, value in arguments.items():
        if hasattr(made, argument) and argument not in ("loss", "every_n_epochs"):
            assert str(getattr(made, argument)) in (str(value), str(tuple(value) if isinstance(value, list) else value))
    if "loss" in arguments:
        logits, targets = torch.randn(4, 3), torch.arange(4) % 3
        assert torch.equal(made.loss(logits, targets), nn.functional.cross_entropy(logits, targets))


@pytest.mark.parametrize(
    "said",
    [
        {"logits": "head.logits", "classes": 10, "ignore_index": 255},
        {"logits": 1, "classes": [0, 1, 255]},
        {"logits": False, "ignore_index": -1},
        {"logits": None, "classes": None, "ignore_index": None},
    ],
)
def test_what_is_said_of_outputs_and_labels_from_yaml(tmp_path: Path, said: dict[str, Any]) -> None:
    from jsonargparse import ArgumentParser

    written = tmp_path / "heldout.yaml"
    written.write_text(yaml.safe_dump({"heldout": {"class_path": "convscope.HeldOut", "init_args": said}}))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--heldout", type=convscope.HeldOut)
    made = parser.instantiate_classes(parser.parse_path(str(written))).heldout
    assert isinstance(made, convscope.HeldOut)
    assert made.logits == said["logits"]
    assert type(made.logits) is type(said["logits"])
    assert made.ignore_index == said.get("ignore_index")
    classes = said.get("classes")
    assert made.classes == (tuple(classes) if isinstance(classes, list) else classes)
