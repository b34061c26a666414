"""Cost of a check, counted and not timed: passes, operations, reads, intercepted calls, written bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import convscope
from benchmarks.operations import CHECKS, count
from convscope.callbacks.engine.bridge import gather_objects
from convscope.callbacks.engine.failures import Failures
from convscope.callbacks.engine.observer import Plan
from convscope.callbacks.engine.planning import make_plan
from convscope.callbacks.engine.shared_pass import run_pass
from convscope.capture import HeldOut, Subject
from convscope.capture.network import follower
from convscope.capture.network.follower import follow
from convscope.metrics import correlation
from convscope.metrics.functional import _remembered
from tests.networks import TinyResNet, images

CHUNKS = 3
LOOKS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2")
"""Operations for which the host waits until the device has finished."""


@pytest.fixture
def plan() -> Plan:
    x, y = images(12)
    heldout = HeldOut((x, y), size=12, batch_size=12 // CHUNKS)
    heldout.prepare()
    network = TinyResNet(8, classes=3)
    observers = [callback for callback in convscope.suite() if isinstance(callback, convscope.LayerObserver)]
    return make_plan(Subject(network, network, torch.device("cpu")), heldout, observers)


def one_pass(plan: Plan) -> dict[str, Any]:
    return run_pass(plan, plan.observers, Failures(raising=True), gather_objects)


class Calls(TorchDispatchMode):
    """Counts operations, those of a backward too."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.images = 0  # that went into a convolution of three channels

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.counts[name] += 1
        self.images += len(args[0]) if name == "convolution" and args[0].shape[1] == 3 else 0
        return func(*args, **(kwargs or {}))


@contextmanager
def counted(owner: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[None]]:
    """A list that grows with every call of a method, which runs as always."""
    original, calls = getattr(owner, name), list[None]()

    def call(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, call)
        yield calls


def test_a_check_is_one_forward_and_one_backward_per_chunk(plan: Plan) -> None:
    with Calls() as calls:
        one_pass(plan)
    convolutions = sum(isinstance(module, nn.Conv2d) for module in plan.subject.module.modules())
    assert calls.counts["convolution"] == CHUNKS * convolutions
    # The gradient of the first convolution's input is nobody's.
    assert calls.counts["convolution_backward"] == CHUNKS * (convolutions - 1)


def test_metrics_make_no_intercepted_calls(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    network = plan.subject.module.eval()
    chunks = list(plan.heldout.chunks())
    with counted(follower._Follower, "__torch_function__", monkeypatch) as bare, follow(network, lambda event: None):
        for chunk in chunks:
            network(chunk.inputs)
    with counted(follower._Follower, "__torch_function__", monkeypatch) as checked:
        one_pass(plan)
    assert len(bare) > 10 * CHUNKS
    assert len(checked) <= len(bare) + 4 * CHUNKS  # the inputs are copied, the output looked at


def test_correlation_and_drift_compute_and_keep_their_moments_once(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    with counted(correlation, "channel_moments", monkeypatch) as calls:
        one_pass(plan)
    assert len(calls) == CHUNKS * len(plan.layers["correlation"])
    assert plan.layers["correlation"] == plan.layers["drift"]
    by_name: dict[str, Any] = {observer.name: observer for observer in plan.observers}
    for layer in plan.layers["drift"]:
        kept = [by_name["correlation"]._metrics.of(layer), by_name["drift"]._correlation.of(layer)]
        assert kept[0].product is kept[1].product


def test_a_first_check_is_prepared_within_two_forwards() -> None:
    x, y = images(64)
    heldout = HeldOut((x, y), size=64, batch_size=16)
    heldout.prepare()
    network = TinyResNet(8, classes=3)
    observers = [callback for callback in convscope.suite() if isinstance(callback, convscope.LayerObserver)]
    with Calls() as calls:  # a counter in a hook would be put back after each pass
        make_plan(Subject(network, network, torch.device("cpu")), heldout, observers)
    assert 0 < calls.images <= 2 * 64


def scalars_of(plan: Plan) -> dict[str, float]:
    usable = one_pass(plan)
    return {
        f"{observer.name}/{quantity}/{layer.name}": value
        for observer in plan.observers
        for layer in usable[observer.name]
        for quantity, value in (observer.compute(layer) or convscope.LayerResult({})).scalars.items()
    }


def test_where_a_look_would_wait_for_a_device_there_is_one_per_chunk(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = scalars_of(plan)
    monkeypatch.setattr("convscope._devices.IN_STEP", frozenset())
    for observer in plan.observers:
        observer.begin(plan.layers[observer.name], plan.heldout.total)
        observer.begin = lambda layers, samples: None  # type: ignore[method-assign]  # weights are read before the pass
    with counted(torch.Tensor, "tolist", monkeypatch) as lists, Calls() as calls:
        one_pass(plan)
    at_the_data = 1 + CHUNKS  # the held-out set is on the CPU whatever the device: its labels are looked at there
    assert {name: calls.counts[name] for name in LOOKS if calls.counts[name]} == {"_local_scalar_dense": at_the_data}
    assert len(lists) == CHUNKS + 1  # and one where the network's state is compared
    for observer in plan.observers:
        del observer.begin  # type: ignore[method-assign]
    assert scalars_of(plan).keys() >= expected.keys()


@pytest.mark.parametrize(
    ("name", "operations", "reads"),
    [  # a little above what was counted
        ("standard suite", 5900, 150),
        ("probe", 1830, 47),
        ("correlation", 1220, 28),
        ("importance", 1190, 34),
        ("drift", 1830, 53),
        ("health", 2060, 24),
    ],
)
def test_a_check_has_few_operations_and_does_not_read_in_each_chunk(name: str, operations: int, reads: int) -> None:
    network = TinyResNet(8, classes=3)  # 7 layers
    found = []
    for chunks in (CHUNKS, 2 * CHUNKS):
        x, y = images(4 * chunks)
        heldout = HeldOut((x, y), size=4 * chunks, batch_size=4)
        heldout.prepare()
        found.append(count(CHECKS[name](), network, heldout))
    assert 0.5 * operations < found[0].operations.total() <= operations
    assert 0.5 * reads < found[0].reads.total() <= reads
    # Once a chunk whether all is finite, and at the labels, which are on the CPU whatever the device.
    assert found[1].reads.total() - found[0].reads.total() <= 2 * CHUNKS


def test_what_a_pass_finds_does_not_depend_on_when_it_looks(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = scalars_of(plan)
    for observer in plan.observers:
        observer.restart()
    monkeypatch.setattr("convscope._devices.IN_STEP", frozenset())
    assert scalars_of(plan) == pytest.approx(at_once, rel=1e-5, abs=1e-6)


def test_nonfinite_layers_are_left_out_whenever_a_pass_looks(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    last = [module for module in plan.subject.module.modules() if isinstance(module, nn.Conv2d)][-1]
    with torch.no_grad():
        last.weight[0, 0, 0, 0] = float("nan")
    at_once = {name: [layer.name for layer in layers] for name, layers in one_pass(plan).items()}
    monkeypatch.setattr("convscope._devices.IN_STEP", frozenset())
    later = {name: [layer.name for layer in layers] for name, layers in one_pass(plan).items()}
    assert later == at_once
    assert len(later["health"]) > len(later["probe"]) - 1 > 0


class Size(L.Callback):
    """Bytes of the event files after each epoch."""

    def __init__(self) -> None:
        self.bytes: list[int] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        files = Path(str(trainer.log_dir)).glob("events.*")
        self.bytes.append(sum(file.stat().st_size for file in files))


def test_a_check_writes_few_bytes_per_layer(fit: Any) -> None:
    size = Size()
    run = fit([*convscope.suite(), size], max_epochs=3)
    layers = sum(tag.startswith("probe/accuracy/") for tag in run.trainer.callback_metrics)
    assert layers == 7
    assert 1_000 * layers < size.bytes[2] - size.bytes[1] < 40_000 * layers


def test_a_check_read_in_validation_runs_two_samples(fit: Any) -> None:
    def samples(epochs: int) -> int:
        heldout = convscope.HeldOut(size=20, batch_size=6, during_validation=True)
        suite = convscope.suite("light", heldout=heldout, on_error="raise")
        torch.manual_seed(0)  # for some weights one more sample settles what the outputs are
        with Calls() as calls:
            fit(suite, max_epochs=epochs)
        return calls.images

    training, validation = 32, 30
    assert samples(3) - samples(2) == training + validation + 2


def test_nothing_is_remembered_once_a_fit_is_over(fit: Any) -> None:
    fit(convscope.suite("standard", pictures=False), max_epochs=2)
    assert sum(len(one._known) for one in _remembered._everyone) == 0
