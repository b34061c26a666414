"""What a block changes in a network is put back in place: tensors of every kind, aliases, containers, after any end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

from convscope.capture.state.isolation import isolated
from convscope.capture.state.network_state import preserved_state
from convscope.capture.state.stand_ins import Silent, say_once
from tests.networks import TinyResNet, images


class Holder(nn.Module):
    """A module with one attribute."""

    def __init__(self, value: Any = None) -> None:
        super().__init__()
        self.value = value


@pytest.fixture(autouse=True)
def reports(caplog: pytest.LogCaptureFixture) -> Any:
    say_once.cache_clear()
    with caplog.at_level(logging.WARNING, "convscope"):
        yield caplog


TENSORS: dict[str, tuple[Callable[[], torch.Tensor], Callable[[torch.Tensor], Any]]] = {
    "float": (lambda: torch.ones(3), lambda t: t.add_(1)),
    "bool": (lambda: torch.ones(3, dtype=torch.bool), lambda t: t.logical_not_()),
    "bfloat16": (lambda: torch.ones(3, dtype=torch.bfloat16), lambda t: t.add_(1)),
    "complex": (lambda: torch.ones(3, dtype=torch.complex128), lambda t: t.mul_(1j)),
    "scalar": (lambda: torch.tensor(1), lambda t: t.add_(1)),
    "empty": (lambda: torch.empty(0), lambda t: t.resize_(2).fill_(1)),
    "small view": (lambda: torch.ones(100)[3:9:2], lambda t: t.add_(1)),
    "transposed": (lambda: torch.ones(2, 3).t(), lambda t: t.add_(1)),
    "expanded": (lambda: torch.ones(1).expand(10**9), lambda t: t[:1].add_(1)),
    "set to another": (lambda: torch.ones(3), lambda t: t.set_(torch.zeros(5))),
    "data of another type": (lambda: torch.ones(3), lambda t: setattr(t, "data", torch.zeros(2, dtype=torch.int8))),
    "shrunk storage": (lambda: torch.ones(3), lambda t: t.untyped_storage().resize_(0)),
    "sparse": (lambda: torch.eye(3).to_sparse(), lambda t: t.add_(torch.ones(3, 3).to_sparse())),
    "sparse values": (lambda: torch.eye(3).to_sparse().coalesce(), lambda t: t.values().add_(1)),
    "compressed": (lambda: torch.eye(3).to_sparse_csr(), lambda t: t.values().add_(1)),
    "quantised": (
        lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        lambda t: t.copy_(torch.zeros(3)),
    ),
    "wrapper subclass": (lambda: TwoTensor(torch.ones(3), torch.zeros(3)), lambda t: (t.a.add_(1), t.b.add_(2))),
    "gradient": (lambda: with_gradient(), lambda t: (t.grad.add_(1), t.requires_grad_(False))),
    "gradient taken": (lambda: with_gradient(), lambda t: setattr(t, "grad", None)),
    "inside a graph": (lambda: torch.ones(3), lambda t: t.mul_(torch.ones(3, requires_grad=True))),
    "attribute": (lambda: tagged(), lambda t: t.tag.append(1)),
    "hooks": (lambda: with_gradient(), lambda t: t.register_hook(lambda g: g)),
}


def with_gradient() -> torch.Tensor:
    tensor = torch.ones(3, requires_grad=True)
    tensor.grad = torch.ones(3)
    return tensor


def tagged() -> torch.Tensor:
    tensor = torch.ones(3)
    tensor.tag = []  # type: ignore[attr-defined]
    return tensor


def looked_at(tensor: torch.Tensor) -> list[Any]:
    """A tensor's bits as plain values, and what hangs on it."""
    if isinstance(tensor, TwoTensor):
        return [tensor.a.tolist(), tensor.b.tolist()]
    values = tensor.detach()
    if values.is_quantized:
        values = values.int_repr()
    if values.layout != torch.strided:
        values = values.to_dense()
    few = values[:3] if values.dim() else values
    grad = None if not tensor.is_leaf or tensor.grad is None else tensor.grad.tolist()
    flags = tensor.requires_grad, tensor.is_leaf, tensor._version, len(tensor._backward_hooks or {})
    return [tuple(tensor.shape), tensor.dtype, few.tolist(), grad, flags, list(getattr(tensor, "tag", []))]


@pytest.mark.parametrize("kind", TENSORS)
@pytest.mark.parametrize("raises", [False, True])
def test_a_tensor_is_the_same_object_with_the_same_bits(
    kind: str, raises: bool, reports: pytest.LogCaptureFixture
) -> None:
    make, change = TENSORS[kind]
    tensor = make()
    holder = Holder({"deep": [tensor]})
    before = looked_at(tensor)
    try:
        with preserved_state(holder):
            with torch.set_grad_enabled(kind == "inside a graph"):
                change(holder.value["deep"][0])
            assert kind == "shrunk storage" or looked_at(tensor) != before
            if raises:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert raises
    assert holder.value["deep"][0] is tensor
    assert looked_at(tensor) == before
    assert reports.messages == []


def test_meta_and_uninitialised_tensors_stay_what_they_are(reports: pytest.LogCaptureFixture) -> None:
    lazy, meta = nn.LazyLinear(2), nn.Linear(2, 2, device="meta")
    model = nn.Sequential(lazy, Holder(meta))
    stream = torch.get_rng_state()
    with isolated(model, seed=0, gradients=False):
        lazy(torch.ones(1, 3))
        assert lazy.weight.shape == (2, 3)
    assert type(lazy) is nn.LazyLinear
    assert isinstance(lazy.weight, nn.parameter.UninitializedParameter)
    assert torch.equal(stream, torch.get_rng_state())
    assert lazy(torch.ones(1, 4)).shape == (1, 2)  # training may still initialise it
    assert meta.weight.is_meta
    assert reports.messages == []


def test_a_backward_that_was_under_way_is_still_right() -> None:
    """A check between the steps of an accumulation: what autograd has saved keeps its bits and its version."""
    model = Holder()
    model.weight = nn.Parameter(torch.full((2,), 3.0))
    loss = (model.weight**2).sum()
    with preserved_state(model), torch.no_grad():
        model.weight.mul_(2)
    loss.backward()
    assert model.weight.grad.tolist() == [6.0, 6.0]


def test_what_did_not_change_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    model = TinyResNet(4)
    model.bank = np.ones(3)
    model.bank.flags.writeable = False
    versions = [t._version for t in model.state_dict(keep_vars=True).values()]
    storage = [t.untyped_storage().data_ptr() for t in model.state_dict(keep_vars=True).values()]
    with isolated(model, seed=0, gradients=False):
        model(images(4)[0])
    assert versions == [t._version for t in model.state_dict(keep_vars=True).values()]
    assert storage == [t.untyped_storage().data_ptr() for t in model.state_dict(keep_vars=True).values()]


def test_what_is_shared_stays_shared() -> None:
    listed: list[Any] = []
    one, other = Holder(listed), Holder({"list": listed})
    other.weight = one.weight = nn.Parameter(torch.ones(1))
    model = nn.Sequential(one, other)
    with preserved_state(model):
        one.value = [*listed, 1]
        other.value["list"] = []
        one.weight = nn.Parameter(torch.zeros(1))
    assert one.value is other.value["list"] is listed
    assert one.weight is other.weight
    assert listed == []


def test_order_of_parameters_and_buffers_that_come_and_go() -> None:
    model = TinyResNet(4)
    model.register_buffer("nothing", None)
    before = list(model.state_dict()), [name for name, _ in model.named_parameters()], dict(model._buffers)
    with preserved_state(model):
        weight = model.conv1.weight
        del model.conv1.weight
        model.conv1.weight = weight  # now last
        model.nothing = torch.ones(1)
        model.register_buffer("more", torch.ones(1))
        layer = model.layer1
        del model.layer1
        model.layer1 = layer
    assert (list(model.state_dict()), [n for n, _ in model.named_parameters()], dict(model._buffers)) == before


def test_one_failure_stops_nothing_else(reports: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(Holder(bytearray(b"a")), Holder([1]), Holder(torch.ones(1)))
    held: list[Any] = []
    with preserved_state(model):
        model[0].value += b"b"
        held.append(memoryview(model[0].value))  # forbids the bytearray to shrink
        model[1].value.append(2)
        model[2].value.add_(1)
    assert model[1].value == [1]
    assert model[2].value.tolist() == [1.0]
    assert [m for m in reports.messages if "bytearray could not be put back after a check (BufferError" in m]


def test_inference_tensors_can_be_written_and_derived_inside() -> None:
    with torch.inference_mode():
        cached = torch.ones(2)
    pair = (cached, [cached])
    model = Holder(pair)
    model.register_buffer("seen", cached)
    with isolated(model, seed=0, gradients=True):
        model.seen.add_(1)
        inner = torch.ones(2, requires_grad=True)
        (inner * model.value[0]).sum().backward()
        assert model.value[0] is model.value[1][0] is model.seen  # still one tensor
        assert inner.grad.tolist() == [2.0, 2.0]
    assert model.value is pair
    assert model.seen is model.value[1][0] is cached
    assert cached.is_inference()
    assert cached.tolist() == [1.0, 1.0]


def test_what_belongs_to_others_is_left_alone(reports: pytest.LogCaptureFixture) -> None:
    data = torch.utils.data.TensorDataset(torch.ones(2))
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    model = Holder([data, optimizer, logging.getLogger("other"), torch.utils.data.DataLoader(data)])
    with preserved_state(model):
        data.tensors = (torch.zeros(2),)
        optimizer.param_groups[0]["lr"] = 2.0
    assert data.tensors[0].tolist() == [0.0, 0.0]
    assert optimizer.param_groups[0]["lr"] == 2.0
    assert reports.messages == []


def test_a_generator_that_cannot_be_put_back_is_named(reports: pytest.LogCaptureFixture) -> None:
    model = Holder(number for number in range(3))
    for _ in range(2):
        with preserved_state(model):
            pass
    assert len(reports.messages) == 1
    assert "the network holds a generator, whose position cannot be put back" in reports.messages[0]


def test_a_function_under_a_context_manager_holds_no_generator_that_runs(reports: pytest.LogCaptureFixture) -> None:
    @contextmanager
    def counted(calls: list[int]) -> Iterator[None]:
        calls.append(1)
        yield

    calls: list[int] = []
    model = Holder(counted(calls)(lambda: None))
    with preserved_state(model):
        model.value()
        assert calls == [1]
    assert calls == []
    assert reports.messages == []


def test_large_python_structures_are_kept_up_to_a_bound(reports: pytest.LogCaptureFixture) -> None:
    numbers, nested = list(range(1_000_000)), [[i] for i in range(200_000)]
    model = nn.Sequential(Holder(numbers), Holder(nested), nn.Linear(1, 1))
    weight = model[2].weight.item()
    with preserved_state(model):
        numbers.append(1)
        nested[0].append(1)
        model[2].weight.data.add_(1)
    assert model[2].weight.item() == weight  # whatever the bound leaves out, never a parameter
    assert len(numbers) == 1_000_000
    assert nested[0] == [0]
    assert [m for m in reports.messages if "holds more than 50000 objects in its attributes" in m]


def test_parameters_that_others_manage_are_left_to_them(reports: pytest.LogCaptureFixture) -> None:
    model = nn.BatchNorm1d(2)
    model.weight.ds_id = 0  # as DeepSpeed marks them
    with preserved_state(model):
        model.weight.data = torch.zeros(0)
        model.running_mean.add_(1)
    assert model.weight.shape == (0,)
    assert model.running_mean.tolist() == [0.0, 0.0]
    assert "only buffers are put back after a check" in reports.messages[0]


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls, self.seen = 0, [0]
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("total", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.seen.append(self.calls)
        self.mean = self.mean + x.mean()
        self.total.add_(1)
        return x + self.mean


def test_a_torchscript_module(reports: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(torch.jit.script(Scripted()))
    model(torch.ones(1))
    with isolated(model, seed=0, gradients=False):
        model(torch.ones(1))
        assert (model[0].calls, model[0].mean.item(), model[0].total.item()) == (2, 2.0, 2.0)
    assert (model[0].calls, model[0].seen, model[0].mean.item(), model[0].total.item()) == (1, [0, 1], 1.0, 1.0)
    assert model[0].training
    assert reports.messages == []


def test_a_silent_writer_takes_every_call() -> None:
    writer = Silent()
    assert writer.add_scalar("a", 1, global_step=2) is None
    assert writer.experiment.add_image("a", 1) is None
    with pytest.raises(AttributeError):
        writer.__len__()


def test_settings_of_the_process_are_put_back() -> None:
    from convscope.capture.state.settings import preserved_settings

    def flip() -> None:
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(not torch.are_deterministic_algorithms_enabled(), warn_only=True)
        torch.set_anomaly_enabled(not torch.is_anomaly_enabled())
        torch.set_autocast_dtype("cpu", torch.float16)
        torch.backends.cudnn.allow_tf32 = not torch.backends.cudnn.allow_tf32
        torch.set_warn_always(not torch.is_warn_always_enabled())
        torch.set_default_device("meta")
        np.seterr(all="ignore")
        torch.set_grad_enabled(False)
        assert all(a != b for a, b in zip(before, now(), strict=True))
        raise RuntimeError("inside")

    def now() -> list[Any]:
        flags = torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled(), torch.is_anomaly_enabled()
        more = torch.get_autocast_dtype("cpu"), torch.backends.cudnn.allow_tf32, torch.is_warn_always_enabled()
        return [*flags, *more, np.geterr(), torch.is_grad_enabled(), torch.get_default_device()]

    before = now()
    with pytest.raises(RuntimeError, match="inside"), torch.enable_grad(), preserved_settings():
        flip()
    assert now() == before
