"""The cells that need a CUDA device: the values of the CPU, its own random streams, the scaler, and real memory."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

import convscope
from tests.callbacks.conftest import Classifier
from tests.compatibility.cells import assert_same_training, few, observers, train
from tests.networks import Plain, TinyResNet, images

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
GPU: dict[str, Any] = {"accelerator": "gpu", "devices": 1}
SHARE = {"32-true": 1e-3, "16-mixed": 0.02, "bf16-mixed": 0.06, "bf16-true": 0.1}
"""How far a layer's value may lie from the CPU's in float32, as a share of the largest layer's."""


def still() -> Classifier:
    return Classifier(Plain(channels=3), lr=0.0)


def by_quantity(scalars: dict[str, float]) -> dict[str, dict[str, float]]:
    """Values of ``health/activation_rms`` and others that are smooth in the activations, by layer."""
    found: dict[str, dict[str, float]] = {}
    for tag, value in scalars.items():
        family, _, rest = tag.partition("/")
        quantity, _, layer = rest.partition("/")
        if layer and f"{family}/{quantity}" in ("health/activation_rms", "health/gradient_rms", "importance/gini"):
            found.setdefault(quantity, {})[layer] = value
    return found


@pytest.mark.parametrize("precision", SHARE)
def test_values_are_those_of_the_cpu(precision: str, tmp_path: Path) -> None:
    expected = by_quantity(train(few(), tmp_path, make=still, max_epochs=1).scalars)
    found = by_quantity(train(few(), tmp_path, make=still, max_epochs=1, precision=precision, **GPU).scalars)
    assert expected.keys() == found.keys()
    for quantity, row in expected.items():
        largest = max(map(abs, row.values()))
        for layer, value in row.items():
            assert abs(found[quantity][layer] - value) < SHARE[precision] * largest, (quantity, layer)


@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
def test_training_is_the_same_bit_for_bit_with_the_devices_own_random_stream(precision: str, tmp_path: Path) -> None:
    found = assert_same_training(
        few(), tmp_path, make=lambda: Classifier(TinyResNet(4, classes=3)), precision=precision, **GPU
    )
    assert isinstance(found.trainer.strategy.root_device, torch.device)


class Draws(L.Callback):
    """Keeps what the device's stream would give next."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def on_train_batch_start(self, *args: Any) -> None:
        self.seen.append(torch.cuda.get_rng_state())


def test_the_devices_stream_is_put_back(tmp_path: Path) -> None:
    streams = []
    for callbacks in ([], observers()):
        draws = Draws()
        train([*callbacks, draws], tmp_path, make=lambda: Classifier(TinyResNet(4, classes=3)), **GPU)
        streams.append(draws.seen)
    assert all(map(torch.equal, *streams))


def test_everything_runs_on_the_device_and_no_memory_of_it_is_kept(tmp_path: Path) -> None:
    train([], tmp_path, make=still, **GPU)
    gc.collect()  # a trainer and what belongs to it refer to each other
    before = torch.cuda.memory_allocated()
    done = train(observers(), tmp_path, make=still, **GPU)
    assert done.scalars["zz_convscope/errors"] == 0.0
    del done
    gc.collect()
    assert torch.cuda.memory_allocated() <= before + 2**20


def test_running_out_of_the_devices_memory_halves_the_chunk(tmp_path: Path, caplog: Any) -> None:
    heldout = convscope.HeldOut(images(256, side=64), size=256, batch_size=256)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 96 * 2**20) / total)
    try:
        done = train(few(heldout=heldout, on_error="warn"), tmp_path, max_epochs=1, **GPU)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert done.trainer.global_step == 4
    assert "out of memory in a check: held-out samples now go through" in caplog.text
    assert "probe/accuracy/net.conv1" in done.scalars
