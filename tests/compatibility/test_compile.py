"""Compiled models, in the ways in which users compile them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.callbacks.conftest import Classifier
from tests.compatibility.cells import assert_same_training, few, observers, train
from tests.networks import TINY_RESNET_UNITS, Plain

EVERY_STEP = {"every_n_train_steps": 1, "layers": None}


class Quiet(Classifier):
    """Logs outside the compiled steps: torch 2.13 cannot compile Lightning's own ``self.log``, convscope or not."""

    def __init__(self) -> None:
        super().__init__(Plain(channels=3))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def on_validation_batch_end(self, outputs: Any, *args: Any) -> None:
        self.log("val_loss", outputs)


class Counting:
    """A backend that runs a graph as it is, and counts how many were compiled."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.graphs += 1
        return graph.forward


def outside(module: Any, backend: Any) -> Any:
    return torch.compile(module, backend=backend)


def attribute(module: Any, backend: Any) -> Any:
    module.net = torch.compile(module.net, backend=backend)
    return module


def in_place(module: Any, backend: Any) -> Any:
    module.compile(backend=backend)
    return module


def part_in_place(module: Any, backend: Any) -> Any:
    module.net.compile(backend=backend, fullgraph=True)
    return module


WAYS: dict[str, Callable[[Any, Any], Any]] = {
    "fit(torch.compile(model))": outside,
    "self.net = torch.compile(net)": attribute,
    "model.compile()": in_place,
    "net.compile(fullgraph=True)": part_in_place,
}


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("way", WAYS)
def test_layers_are_seen_under_their_names_and_nothing_is_compiled_anew(way: str, tmp_path: Path) -> None:
    backends: list[Counting] = []

    def wrap(module: Any) -> Any:
        torch._dynamo.reset()
        backends.append(Counting())
        return WAYS[way](module, backends[-1])

    found = assert_same_training(few(**EVERY_STEP), tmp_path, make=Quiet, wrap=wrap)
    assert backends[0].graphs == backends[1].graphs > 0  # the same graphs, with a check after every step
    layers = {name.removeprefix("importance/gini/") for name in found.scalars if name.startswith("importance/gini/")}
    assert layers == {"net.conv1", "net.conv2"}  # no _orig_mod
    uncompiled = train(few(**EVERY_STEP), tmp_path, make=Quiet)
    for name, value in uncompiled.scalars.items():
        if not name.startswith("zz_convscope/"):
            assert found.scalars[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


@pytest.mark.slow
@pytest.mark.parametrize("way", ["self.net = torch.compile(net)", "model.compile()"])
def test_inductor_with_everything(way: str, tmp_path: Path) -> None:
    found = train(observers(), tmp_path, wrap=lambda module: WAYS[way](module, "inductor"))
    layers = {name.removeprefix("probe/accuracy/") for name in found.scalars if name.startswith("probe/accuracy/")}
    assert layers == {"output"} | {f"net.{name}" for name in TINY_RESNET_UNITS}
    assert found.scalars["zz_convscope/errors"] == 0.0
    assert found.trainer.global_step == 8
