"""Forward from a layer is what the network computes when its activations are replaced by hand."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from convscope import HeldOut, forward_from_layer
from convscope.capture import Subject, select_layers, trace_layers
from convscope.capture.intervention import Intervention
from convscope.capture.outputs.sample_loss import sample_losses
from tests.capture.test_isolation import same, snapshot
from tests.networks import TINY_RESNET_UNITS, Plain, TinyResNet, images
from tests.support.spies import Seen


def resnet() -> TinyResNet:
    torch.manual_seed(0)
    model = TinyResNet(8)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def by_hand(model: TinyResNet, x: torch.Tensor, keep: torch.Tensor, baseline: str) -> torch.Tensor:
    """TinyResNet with the first block's inner unit masked, written out without any of our code."""
    stem = F.relu(model.bn1(model.conv1(x)))
    block = model.layer1[0]
    inner = F.relu(block.bn1(block.conv1(stem)))
    fill = inner.mean((0, 2, 3)) if baseline == "mean" else torch.zeros(inner.shape[1])
    inner = torch.where(keep[:, None, None], inner, fill[:, None, None])
    out = F.relu(block.bn2(block.conv2(inner)) + stem)
    return model.fc(model.layer2(out).mean((2, 3)))


@pytest.mark.parametrize("baseline", ["mean", "zero"])
def test_a_masked_layer_behind_a_skip_connection_is_that_written_by_hand(baseline: Any) -> None:
    model, x = resnet(), images(9)[0]
    keep = torch.rand(5, 8, generator=torch.Generator().manual_seed(0)) < 0.5
    found = forward_from_layer(model, x, "layer1.0.conv1", keep, baseline)
    with torch.no_grad():
        expected = torch.stack([by_hand(model, x, row, baseline) for row in keep])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (expected[0] - expected[1]).abs().max() > 1e-3  # the sets differ, so the comparison can fail
    torch.testing.assert_close(forward_from_layer(model, x, "layer1.0.conv1", keep[0], baseline), found[0])


@pytest.mark.parametrize("layer", TINY_RESNET_UNITS)
def test_keeping_every_filter_changes_nothing_and_one_set_is_the_same_alone_or_among_others(layer: str) -> None:
    model, x = resnet(), images(7)[0]
    channels = dict(model.named_modules())[layer].out_channels
    keep = torch.rand(4, channels, generator=torch.Generator().manual_seed(1)) < 0.5
    keep[2] = True
    found = forward_from_layer(model, x, layer, keep)
    with torch.no_grad():
        torch.testing.assert_close(found[2], model(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1], forward_from_layer(model, x, layer, keep[1]), rtol=1e-4, atol=1e-5)


class Discards(nn.Module):
    """Activates in place and goes on with the tensor, not with what the function returned."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x)
        F.relu_(x)
        return self.conv2(x).mean((2, 3))


class RemembersTheBatch(nn.Module):
    """Takes the number of samples before the layer and reshapes by it after the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        samples = x.shape[0]
        x = torch.relu(self.conv1(x))
        return self.conv2(x).reshape(samples, 5, -1).mean(2)


class AddsInPlace(nn.Module):
    """Adds the layer's output to an older tensor in place, and goes on with the older one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv1 = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x.add_(torch.relu(self.conv1(x)))
        return x.mean((2, 3))


@pytest.mark.parametrize("network", [Discards, RemembersTheBatch, AddsInPlace])
def test_networks_on_which_a_beginning_cannot_be_shared_are_still_right(network: type[nn.Module]) -> None:
    torch.manual_seed(1)
    model, x = network(), images(6)[0]
    keep = torch.tensor([[True, False, True, False], [False, True, True, True]])
    found = forward_from_layer(model, x, "conv1", keep, "zero")
    for row, mask in zip(found, keep, strict=True):
        with torch.no_grad():
            expected = _masked_by_weights(model, x, mask)
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-5)


def _masked_by_weights(model: Any, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """A filter whose weights and bias are zero gives zero behind a ReLU."""
    saved = [p.clone() for p in model.conv1.parameters()]
    for parameter in model.conv1.parameters():
        parameter[~mask] = 0
    out = model(x)
    for parameter, value in zip(model.conv1.parameters(), saved, strict=True):
        parameter.copy_(value)
    return out


class Shared(nn.Module):
    """One convolution and one activation, each called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.conv(self.act(self.conv(x)))).mean((2, 3))


def test_of_a_shared_module_only_the_named_call_is_masked() -> None:
    torch.manual_seed(2)
    model, x, keep = Shared(), images(5)[0], torch.tensor([True, False, True])
    with torch.no_grad():
        first = model.act(model.conv(x))
        second = model.act(model.conv(first)) * keep[:, None, None]
        early = model.act(model.conv(first * keep[:, None, None]))
    torch.testing.assert_close(forward_from_layer(model, x, "conv", keep, "zero"), early.mean((2, 3)))
    torch.testing.assert_close(forward_from_layer(model, x, "conv@2", keep, "zero"), second.mean((2, 3)))


@pytest.mark.parametrize("raises", [False, True])
def test_nothing_is_left_behind(raises: bool) -> None:
    calls = Seen()  # a counter of the network's own would be put back after each pass
    found = weakref.ref(calls)

    class Raises(TinyResNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls = found()
            assert calls is not None
            calls.append(len(x))
            if raises and len(calls) > 3:
                raise RuntimeError("boom")
            return super().forward(x)

    model = Raises(8).train()
    before, stream = snapshot(model), torch.get_rng_state()
    try:
        forward_from_layer(model, images(4)[0], "conv1", torch.ones(2, 8, dtype=torch.bool))
        assert not raises
    except RuntimeError:
        assert raises
    after = snapshot(model)
    assert [key for key in before if not same(before[key], after[key])] == []
    assert torch.equal(stream, torch.get_rng_state())
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


class CountsConvolutions(TorchDispatchMode):
    """Convolutions that are really computed, whatever calls are made."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten.convolution.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("layer", "before"), [("conv1", 1), ("layer1.0.conv2", 3), ("layer2.0.conv2", 6)])
def test_what_comes_before_the_layer_is_computed_once_for_all_sets(layer: str, before: int) -> None:
    model, x = resnet(), images(8)[0]
    heldout = HeldOut((x,), size=8, batch_size=8)
    heldout.prepare()
    subject = Subject(model, model, torch.device("cpu"))
    chosen = select_layers(trace_layers(subject, heldout)[0], [layer])[0]
    keep = torch.ones(8, chosen.channels, dtype=torch.bool)
    with CountsConvolutions() as counted:
        Intervention(subject, chosen, torch.zeros(chosen.channels)).logits(x, keep)
    everything = len(TINY_RESNET_UNITS)
    shared = everything + 8 * (everything - before)  # one whole pass, and eight from the layer on
    assert counted.count == shared


@pytest.mark.parametrize(
    ("layer", "keep", "baseline", "says"),
    [
        ("nowhere", torch.ones(8, dtype=torch.bool), "mean", "matches no layer"),
        ("conv1", torch.ones(7, dtype=torch.bool), "mean", r"\(8,\)"),
        ("conv1", torch.ones(8), "mean", "bool mask"),
        ("conv1", torch.ones(8, dtype=torch.bool), "median", "baseline='median'"),
    ],
)
def test_bad_arguments_are_named(layer: str, keep: torch.Tensor, baseline: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        forward_from_layer(resnet(), images(4)[0], layer, keep, baseline)


def test_functional_activations_are_masked_too() -> None:
    torch.manual_seed(0)
    model, x = Plain(), images(6, channels=1)[0]
    keep = torch.tensor([True, True, False, True])
    with torch.no_grad():
        hidden = F.relu(model.conv1(x)) * keep[:, None, None]
        expected = model.head(torch.relu(model.conv2(hidden)).amax((2, 3)))
    torch.testing.assert_close(forward_from_layer(model, x, "conv1", keep, "zero"), expected)


def branching(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    value = F.cross_entropy(logits, targets, reduction="sum")
    return value * 2 if value > 1 else value


@pytest.mark.parametrize("loss", [lambda z, y: F.cross_entropy(z, y, reduction="sum"), branching])
def test_losses_of_samples_are_those_of_single_calls(loss: Any) -> None:
    logits, targets = 3 * torch.randn(20, 5), torch.arange(20) % 5
    expected = torch.stack([loss(logits[i : i + 1], targets[i : i + 1]) for i in range(20)])
    torch.testing.assert_close(sample_losses(loss, logits, targets), expected)


@pytest.fixture
def process_group(tmp_path: Any) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Talks(TinyResNet):
    """Waits for other processes in the forward."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = super().forward(x)
        dist.all_reduce(torch.ones(1))
        return x


@pytest.mark.parametrize(("network", "shares"), [(TinyResNet, True), (Talks, False)])
def test_a_network_that_waits_for_other_processes_takes_a_fixed_number_of_passes(
    process_group: None, network: Any, shares: bool
) -> None:
    model, x, keep = network(8).eval(), images(4)[0], torch.ones(6, 16, dtype=torch.bool)
    subject = Subject(model, model, torch.device("cpu"))
    heldout = HeldOut((x,), size=4)
    heldout.prepare()
    layer = select_layers(trace_layers(subject, heldout)[0], ["layer2.0.conv2"])[0]
    with CountsConvolutions() as counted:
        Intervention(subject, layer, torch.zeros(16)).logits(x, keep)
    assert counted.count == (6 if shares else 6 * 6)  # all convolutions once, or in every pass
