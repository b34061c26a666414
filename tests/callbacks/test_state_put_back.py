"""Training is bitwise the same for networks whose forward changes state of any kind."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn

import convscope
from tests.callbacks.conftest import Classifier, loaders
from tests.capture.test_isolation import same
from tests.compatibility.cells import Trained, assert_same, train
from tests.support.misbehaving import (
    KINDS,
    PREPARED,
    DataBuffer,
    GraphCarrier,
    InferenceCache,
    MetricInForward,
    WrittenParameters,
)


def observers() -> list[Any]:
    """Forward only, with gradients, with interventions, and between steps."""
    given: dict[str, Any] = {"on_error": "raise", "pictures": False}
    return [
        convscope.LayerProbe(**given),
        convscope.FilterImportance(every_n_train_steps=3, **given),
        convscope.AblationImportance(every_n_epochs=1, samples=8, **given)
        if hasattr(convscope, "AblationImportance")
        else convscope.ForwardFromLayer(every_n_epochs=1, samples=8, **given),
    ]


def both(make: Callable[[], L.LightningModule], folder: Path, **arguments: Any) -> tuple[Trained, Trained]:
    """One fit without and one with observation; what it made of the module is the same."""
    without = train([], folder / "without", make=make, **arguments)
    kept = kept_of(without.module)
    observed = train(observers(), folder / "with", make=make, **arguments)
    assert_same(without, observed)
    assert same(kept, kept_of(observed.module))
    assert any(name.startswith("importance") for name in observed.scalars)
    return without, observed


def kept_of(module: Any) -> Any:
    return module.net.kept() if hasattr(module.net, "kept") else None


@pytest.fixture(autouse=True)
def nothing_was_reported(caplog: pytest.LogCaptureFixture) -> Any:
    """No object could not be kept, and none could not be put back."""
    with caplog.at_level(logging.WARNING, "convscope"):
        yield
    torch.set_default_dtype(torch.float32)
    assert [r.message for r in caplog.records if "be put back" in r.message or "be kept" in r.message] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_misbehaving_network_trains_as_without_observation(kind: type[nn.Module], tmp_path: Path) -> None:
    both(lambda: Classifier(kind()), tmp_path, limit_val_batches=0)  # evaluated by checks alone


@pytest.mark.parametrize("kind", [InferenceCache, DataBuffer, MetricInForward])
def test_validate_before_fit_leaves_inference_tensors(kind: type[nn.Module], tmp_path: Path) -> None:
    def validated() -> Classifier:
        module = Classifier(kind())
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
        L.Trainer(default_root_dir=tmp_path, **quiet).validate(module, loaders()[1], verbose=False)
        return module

    assert kind is not InferenceCache or validated().net.cache.is_inference()
    both(validated, tmp_path, limit_val_batches=0)


@pytest.mark.parametrize("kind", [WrittenParameters, DataBuffer, GraphCarrier])
def test_a_check_in_the_midst_of_an_accumulation(kind: type[nn.Module], tmp_path: Path) -> None:
    both(lambda: Classifier(kind()), tmp_path, accumulate_grad_batches=3, val_check_interval=2)


@pytest.mark.parametrize("make", PREPARED)
def test_a_prepared_network_trains_as_without_observation(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says which interface it will drop
        both(lambda: Classifier(make()), tmp_path)
