"""Nothing that a check touches stays changed."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from convscope.capture import HeldOut, Subject, observe, select_layers, trace_layers
from convscope.capture.state.isolation import isolated
from tests.networks import TinyResNet, images


class Meddler(nn.Module):
    """Writes to a buffer, draws from every stream, and overrides train() as owners of frozen layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.inner = TinyResNet(4)

    def train(self, mode: bool = True) -> Meddler:
        raise AssertionError("train() must not be called by a check")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.inner(x + torch.rand(()) + random.random() + float(np.random.rand()))


def snapshot(model: nn.Module) -> dict[str, Any]:
    return {
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "modes": [module.training for module in model.modules()],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "grad_objects": [id(p.grad) for p in model.parameters()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()],
        "parameter_hooks": [len(p._backward_hooks or {}) for p in model.parameters()],
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),
        "torch": torch.get_rng_state(),
        "grad_mode": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def a_model() -> nn.Module:
    model = Meddler()
    model.inner.layer1.eval()  # a frozen BatchNorm keeps its own mode
    for parameter in model.inner.layer1.parameters():
        parameter.requires_grad_(False)
    inputs, labels = images(8, channels=3)
    nn.functional.cross_entropy(model(inputs), labels).backward()
    return model


class Greedy:
    """Takes everything; does as told at its n-th activation."""

    def __init__(self, action: Callable[[], None] = lambda: None, at: int = 4) -> None:
        self.left, self.action = at, action
        self.needs_gradient, self.takes_nonfinite = True, False

    def wants(self, layer: str) -> bool:
        return True

    def on_activation(self, record: Any) -> None:
        self.left -= 1
        if self.left == 0:
            self.action()

    def on_gradient(self, record: Any, gradient: torch.Tensor) -> None:
        pass


def run(model: nn.Module, consumer: Any, loss: Any = nn.functional.cross_entropy) -> Any:
    heldout = HeldOut(images(12), size=12, batch_size=5)
    heldout.prepare()
    subject = Subject(model, model, torch.device("cpu"), loss=loss)
    layers = select_layers(trace_layers(subject, heldout)[0])
    return observe(subject, heldout, layers, [consumer])


def throw(error: BaseException) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


@pytest.mark.parametrize("inference", [False, True])
def test_a_good_pass_leaves_no_trace(inference: bool) -> None:
    model = a_model()
    before = snapshot(model)
    with torch.inference_mode(inference):
        report = run(model, Greedy())
    assert report.samples == 12
    assert same(before, snapshot(model))


@pytest.mark.parametrize(
    ("consumer", "loss", "error"),
    [
        (Greedy(throw(KeyboardInterrupt())), nn.functional.cross_entropy, KeyboardInterrupt),
        (Greedy(throw(SystemExit())), nn.functional.cross_entropy, SystemExit),
        (Greedy(), lambda logits, targets: throw(KeyboardInterrupt())(), KeyboardInterrupt),
    ],
    ids=["interrupt", "exit", "loss"],
)
def test_a_pass_that_is_cut_short_leaves_no_trace(consumer: Any, loss: Any, error: type[BaseException]) -> None:
    model = a_model()
    before = snapshot(model)
    with pytest.raises(error):
        run(model, consumer, loss)
    assert same(before, snapshot(model))


def test_a_loss_that_raises_is_reported_and_leaves_no_trace() -> None:
    model = a_model()
    before = snapshot(model)
    report = run(model, Greedy(), lambda logits, targets: logits[:, 99].sum())
    assert isinstance(report.loss_error, IndexError)
    assert report.samples == 12
    assert same(before, snapshot(model))


def test_a_forward_that_raises_leaves_no_trace() -> None:
    model = a_model()
    heldout = HeldOut(images(12), size=12, batch_size=5)
    heldout.prepare()
    subject = Subject(model, model, torch.device("cpu"))
    layers = select_layers(trace_layers(subject, heldout)[0])
    handle = model.inner.layer2.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("user's own")))
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="user's own"):
        observe(subject, heldout, layers, [Greedy()])
    assert same(before, snapshot(model))
    handle.remove()


def test_a_consumer_that_raises_loses_its_layer_alone() -> None:
    model = a_model()
    before = snapshot(model)
    report = run(model, Greedy(throw(ValueError("metric"))))
    assert [str(error) for error in report.failures.values()] == ["metric"]
    assert len(report.failures) == 1
    assert same(before, snapshot(model))


def test_the_block_is_seeded_and_evaluating() -> None:
    model = TinyResNet(4)
    draws = []
    for _ in range(2):
        torch.rand(3)
        with isolated(model, seed=7, gradients=False):
            draws.append((torch.rand(2).tolist(), random.random(), np.random.rand()))
            assert not any(module.training for module in model.modules())
    assert draws[0] == draws[1]
    assert all(module.training for module in model.modules())


def test_a_buffer_that_was_replaced_is_put_back() -> None:
    model = Meddler()
    original = model.calls
    with isolated(model, seed=0, gradients=False):
        model.calls = torch.ones(())
    assert model.calls is original


@pytest.mark.parametrize("how", ["module", "inside", "outer"])
def test_compiled_modules_are_observed_after_they_have_been_compiled(how: str) -> None:
    net = TinyResNet(4)
    if how == "module":
        net.compile(backend="eager")
        model: nn.Module = net
    elif how == "inside":
        model = nn.Sequential(torch.compile(net, backend="eager"))
    else:
        model = torch.compile(net, backend="eager")
    with torch.no_grad():
        model.eval()(images(5)[0])  # compiled before any of our hooks
    model.train()
    seen: list[str] = []
    consumer = Greedy()
    consumer.on_activation = lambda record: seen.append(record.layer.name)  # type: ignore[method-assign]
    report = run(model, consumer)
    assert not report.missing
    assert len(set(seen)) == 6


def test_the_walk_over_a_network_sets_off_no_search_for_garbage() -> None:
    """A walk makes thousands of objects, and a full search for garbage takes many times longer than the walk."""
    net = nn.Sequential(*[TinyResNet(4, classes=3) for _ in range(10)])

    def searches() -> int:
        return int(gc.get_stats()[0]["collections"])

    gc.collect()
    before = searches()
    with isolated(net, seed=0, gradients=False):
        assert gc.isenabled()
    assert searches() - before <= 5
    gc.disable()
    try:
        with isolated(net, seed=0, gradients=False):
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
