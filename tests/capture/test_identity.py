"""A layer is what ran: in every chunk it is found again, or reported and given to nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convscope.capture import HeldOut, Subject, observe, select_layers, trace_layers
from convscope.capture.network.finder import ELSEWHERE, REPLACED, UNEVEN
from convscope.capture.network.trace import Layer
from tests.capture.test_rows import Gathering, prepared

N, C, K = 12, 4, 3
SOME = "ran for some of the held-out samples only"


def dark_and_bright() -> torch.Tensor:
    """Samples whose first half is dark, so that chunks of three take different ways."""
    images = torch.rand(N, 3, 6, 6)
    images[N // 2 :] += 5
    return images


class Dynamic(nn.Module):
    """Three convolutions that share one ReLU; ``way`` decides on what runs, by the brightness of the batch."""

    def __init__(self, way: Callable[[Any, torch.Tensor, bool], torch.Tensor]) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(c, C, 3, padding=1) for c in (3, C, C))
        self.weight1, self.weight2 = nn.Parameter(torch.randn(C, C, 1, 1)), nn.Parameter(torch.randn(C, C, 1, 1))
        self.act, self.head, self.way = nn.ReLU(), nn.Linear(C, K), way

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bright = bool(x.mean() > 3)
        x = self.act(self.conv1(x / 5))
        return self.head(self.way(self, x, bright).mean((2, 3)))


def skipped(net: Any, x: torch.Tensor, bright: bool) -> torch.Tensor:
    """The shared ReLU's second call is then conv3's."""
    if not bright:
        x = net.act(net.conv2(x))
    return net.act(net.conv3(x))


def extra_relu(net: Any, x: torch.Tensor, bright: bool) -> torch.Tensor:
    if bright:
        x = net.act(x - 0.1)
    return net.act(net.conv3(net.act(net.conv2(x))))


def repeated(net: Any, x: torch.Tensor, bright: bool) -> torch.Tensor:
    for _ in range(1 + bright):
        x = net.act(net.conv2(x))
    return net.act(net.conv3(x))


def other_branch(net: Any, x: torch.Tensor, bright: bool) -> torch.Tensor:
    return F.relu(F.conv2d(x, net.weight2 if bright else net.weight1))


def computed_weight(net: Any, x: torch.Tensor, bright: bool) -> torch.Tensor:
    weight = net.weight2 if bright else net.weight1
    return F.relu(F.conv2d(x, (weight - weight.mean()) / weight.std()))


def branch_before(net: Any, x: torch.Tensor, bright: bool) -> torch.Tensor:
    """The second functional convolution becomes the first."""
    if not bright:
        x = F.relu(F.conv2d(x, net.weight1))
    return F.relu(F.conv2d(x, net.weight2))


def subset(net: Any, x: torch.Tensor, bright: bool) -> torch.Tensor:
    """A mixture of experts: each sees some of the samples."""
    gate = x.mean((1, 2, 3)) > x.mean()
    y = torch.zeros_like(x)
    y[gate], y[~gate] = net.conv2(x[gate]), net.conv3(x[~gate])
    return y


def early_exit(net: Any, x: torch.Tensor, bright: bool) -> torch.Tensor:
    return x if bright else net.act(net.conv3(net.act(net.conv2(x))))


def other_size(net: Any, x: torch.Tensor, bright: bool) -> torch.Tensor:
    return net.conv3(net.conv2(F.avg_pool2d(x, 2) if bright else x))


CASES: dict[str, tuple[Callable[..., torch.Tensor], dict[str, str | None]]] = {
    "skipped": (skipped, {"conv1": None, "conv2": SOME, "conv3": None}),
    "extra relu": (extra_relu, {"conv1": None, "conv2": None, "conv3": None}),
    "repeated": (repeated, {"conv1": None, "conv2": UNEVEN, "conv3": None}),
    "another weight": (other_branch, {"conv1": None, "conv2d": ELSEWHERE}),
    "another computed weight": (computed_weight, {"conv1": None, "conv2d": ELSEWHERE}),
    "branch before": (branch_before, {"conv1": None, "conv2d": ELSEWHERE, "conv2d@2": SOME}),
    "early exit": (early_exit, {"conv1": None, "conv2": SOME, "conv3": SOME}),
    "another size": (
        other_size,
        {"conv1": None} | dict.fromkeys(("conv2", "conv3"), "has another size for inputs of the same size"),
    ),
}


def run(model: nn.Module, inputs: torch.Tensor, names: Any = None, batch_size: int = 3) -> tuple[Gathering, Any]:
    keeper, heldout = Gathering(), prepared(inputs, batch_size)
    subject = Subject(model, model, torch.device("cpu"))
    found, _ = trace_layers(subject, heldout)
    return keeper, observe(subject, heldout, select_layers(found, names), [keeper])


@pytest.mark.parametrize("case", CASES)
def test_what_is_not_the_same_in_every_chunk_is_left_out(case: str) -> None:
    torch.manual_seed(0)
    way, expected = CASES[case]
    model, inputs = Dynamic(way).eval(), dark_and_bright()
    keeper, report = run(model, inputs)
    assert report.unmatched == {name: reason for name, reason in expected.items() if reason}
    assert report.missing == set()
    kept = [name for name, reason in expected.items() if reason is None]
    for name in kept:
        torch.testing.assert_close(torch.cat(keeper.chunks[name]), _after_relu(model, inputs, name))


def _after_relu(model: Dynamic, inputs: torch.Tensor, name: str) -> torch.Tensor:
    """ReLU of a convolution's only call in each chunk, by a plain hook."""
    found: list[torch.Tensor] = []
    handle = model.get_submodule(name).register_forward_hook(lambda m, a, output: found.append(output.detach()))
    with torch.no_grad():
        for chunk in inputs.split(3):
            model(chunk)
    handle.remove()
    return torch.relu(torch.cat(found))


def test_experts_that_see_some_samples_are_left_out() -> None:
    keeper, report = run(Dynamic(subset), dark_and_bright())
    assert set(report.unmatched) == {"conv2", "conv3"}
    assert set(keeper.chunks) == {"conv1"}


def test_a_module_that_runs_in_another_call_of_its_parent() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor, convolve: bool) -> torch.Tensor:
            return self.conv(x) if convolve else x * 2

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.last = Block(), nn.Conv2d(3, K, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            bright = bool(x.mean() > 3)
            return self.last(self.block(self.block(x, not bright), bright)).mean((2, 3))

    keeper, report = run(Net(), dark_and_bright())
    assert report.unmatched == {"block.conv": ELSEWHERE}
    assert "last" in keeper.chunks


def test_a_module_that_was_exchanged_since_the_plan() -> None:
    model = Dynamic(extra_relu)
    heldout, keeper, subject = prepared(dark_and_bright()), Gathering(), Subject(model, model, torch.device("cpu"))
    layers = select_layers(trace_layers(subject, heldout)[0])
    model.conv2 = nn.Conv2d(C, C, 1)
    report = observe(subject, heldout, layers, [keeper])
    assert report.unmatched == {"conv2": REPLACED}
    assert set(keeper.chunks) == {"conv1", "conv3"}


def test_images_of_another_size_are_still_the_same_layer() -> None:
    model = Dynamic(extra_relu)
    subject, keeper = Subject(model, model, torch.device("cpu")), Gathering()
    layers = select_layers(trace_layers(subject, prepared(torch.rand(N, 3, 6, 6)))[0])
    report = observe(subject, prepared(torch.rand(N, 3, 9, 9)), layers, [keeper])
    assert report.unmatched == {}
    assert keeper.of("conv3").shape == (N, C, 9, 9)


def test_a_network_that_catches_an_error_of_its_own() -> None:
    """What runs after it is not taken for a part of the module that failed."""

    class Fragile(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("not today")

    class FragileNorm(Fragile):
        pass

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fragile, self.conv = FragileNorm(), nn.Conv2d(3, K, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            try:
                x = self.fragile(x)
            except RuntimeError:
                x = F.conv2d(x, torch.ones(3, 3, 1, 1))
            return F.relu(self.conv(x)).mean((2, 3))

    keeper, report = run(Net(), torch.rand(N, 3, 6, 6))
    assert set(keeper.chunks) == {"conv2d", "conv"}
    assert not report.unmatched


class Twice(nn.Module):
    """Functional convolutions of two kinds in one module, beside a module of that name."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4, 3, 3))
        self.line = nn.Parameter(torch.randn(4, 4, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(F.conv2d(x, self.weight, padding=1))
        x = F.relu(F.conv2d(x, self.weight, padding=1))
        return F.relu(F.conv1d(x.flatten(2), self.line, padding=1)).view_as(x)


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.output, self.twice, self.forward_, self.alone = nn.Conv2d(3, 4, 1), Twice(), nn.Conv2d(4, 4, 1), Alone()
        self.add_module("output@2", nn.Conv2d(4, 4, 1))
        self.add_module("output@model", nn.Conv2d(4, 4, 1))
        self.again = self.forward_
        self.stem = nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.output(x)
        x = self.output(x[:, :3]) + self.get_submodule("output@2")(x) + self.get_submodule("output@model")(x)
        return self.stem(self.alone(self.again(self.forward_(self.twice(x))))).mean((2, 3))


class Alone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.weight)


NAMES = [
    "output", "output@2@2", "output@2", "output@model", "twice.conv2d", "twice.conv2d@2", "twice.conv1d",
    "forward_", "forward_@2", "alone", "stem",
]  # fmt: skip


def test_no_two_layers_share_a_name_and_none_is_lost() -> None:
    model, inputs = Named(), torch.rand(N, 3, 6, 6)
    heldout, keeper, subject = prepared(inputs), Gathering(), Subject(model, model, torch.device("cpu"))
    found, logits = trace_layers(subject, heldout)
    layers = select_layers(found)
    assert [layer.name for layer in layers] == NAMES
    output = found.output(logits, [layer.name for layer in layers])
    assert output.name == "output@model@2"
    assert found.output(logits, ["conv"]).name == "output"
    assert found.output(logits, ["output"]).name == "output@model"
    report = observe(subject, heldout, [*layers, output], [keeper])
    assert (report.unmatched, report.missing, report.failures) == ({}, set(), {})
    assert {name: keeper.of(name).shape[1] for name in keeper.chunks} == dict.fromkeys([*NAMES, output.name], 4)
    with torch.no_grad():
        torch.testing.assert_close(keeper.of("output"), model.eval().output(inputs))
        torch.testing.assert_close(keeper.of("output@model@2"), model(inputs))


def test_a_unit_a_raw_convolution_and_its_activation_are_three_layers() -> None:
    """Each consumer is given its own, though two have one name and two come from one operation."""
    model, inputs = (
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(144, K)),
        torch.rand(N, 3, 6, 6),
    )
    heldout = prepared((inputs, torch.arange(N) % K))
    subject = Subject(model, model, torch.device("cpu"), loss=_summed)
    found, _ = trace_layers(subject, heldout)
    (unit,), (raw,), (act,) = select_layers(found), select_layers(found, raw=True), select_layers(found, nn.ReLU)
    consumers = [_Of(unit), _Of(raw), _Of(act)]
    observe(subject, heldout, [unit, raw, act], consumers)
    plain = model[0](inputs).detach()
    for consumer, expected in zip(consumers, [plain.relu(), plain, plain.relu()], strict=True):
        torch.testing.assert_close(torch.cat(consumer.activations), expected)
    gradient = model[3].weight.sum(0).view(1, 4, 6, 6).expand(N, -1, -1, -1)
    torch.testing.assert_close(torch.cat(consumers[0].gradients), gradient)
    torch.testing.assert_close(torch.cat(consumers[1].gradients), gradient * (plain > 0))


def _summed(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return logits.sum()


class _Of:
    """Takes one layer."""

    needs_gradient, takes_nonfinite = True, False

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.activations: list[torch.Tensor] = []
        self.gradients: list[torch.Tensor] = []

    def wants(self, layer: Layer) -> bool:
        return layer.id == self.layer.id

    def on_activation(self, record: Any) -> None:
        self.activations.append(record.activation.clone())

    def on_gradient(self, record: Any, gradient: torch.Tensor) -> None:
        self.gradients.append(gradient.clone())


def test_a_functional_convolution_and_the_module_that_holds_it() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3, 1, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.relu(F.conv2d(x, self.weight)) * 2

    model = nn.Sequential(Block(), nn.Flatten())
    found = trace_layers(Subject(model, model, torch.device("cpu")), prepared(torch.rand(N, 3, 6, 6)))[0]
    layers = select_layers(found, [Block, "0"])
    assert [(layer.name, layer.kind) for layer in layers] == [("0", "conv2d"), ("0@2", "Block")]


def test_names_that_differ_by_a_wrappers_part_only() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self._orig_mod = nn.Sequential()
            self._orig_mod.add_module("conv", nn.Conv2d(4, K, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self._orig_mod(F.relu(self.conv(x))).mean((2, 3))

    keeper, report = run(Odd(), torch.rand(N, 3, 6, 6))
    assert {name: chunks[0].shape[1] for name, chunks in keeper.chunks.items()} == {"conv": 4, "_orig_mod.conv": K}
    assert not report.unmatched


def test_one_module_alone_and_in_its_compiled_wrapper() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
            self.compiled = torch.compile(self.net, backend="eager")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.compiled(self.net(x)).mean((2, 3))

    keeper, report = run(Both(), torch.rand(N, 3, 6, 6))
    assert list(keeper.chunks) == ["net.0", "net.0@2"]
    assert not report.unmatched


def test_modules_in_the_order_in_which_they_end() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 5), nn.ReLU()), nn.Sequential(nn.Dropout(), nn.Linear(5, K)))
    found = trace_layers(Subject(model, model, torch.device("cpu")), prepared(torch.rand(N, 4)))[0]
    assert [layer.name for layer in found.modules()] == ["0.0", "0.1", "0", "1.0", "1.1", "1"]
    assert [layer.order for layer in found.modules()] == sorted(layer.order for layer in found.modules())


def test_a_functional_group_norm_says_which_axis_the_channels_are() -> None:
    """Nothing else in this network does, and three axes would count as tokens."""

    class Signals(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(F.group_norm(x, 2))

    model = Signals()
    found = trace_layers(Subject(model, model, torch.device("cpu")), prepared(torch.rand(N, 4, 7)))[0]
    (layer,) = select_layers(found, "out")
    assert (layer.channel_dim, layer.channels, layer.spatial) == (1, 4, (7,))


def test_a_held_out_set_of_one_sample() -> None:
    model = Dynamic(extra_relu)
    heldout = HeldOut((torch.rand(1, 3, 6, 6),), size=1)
    heldout.prepare()
    found, _ = trace_layers(Subject(model, model, torch.device("cpu")), heldout)
    assert [layer.problem for layer in select_layers(found)] == ["", "", ""]
