"""Whose row is whose is told from what runs; what cannot be told is given to nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convscope.capture import HeldOut, Subject, observe, select_layers, trace_layers
from convscope.capture.network.rows import RowOrder
from convscope.capture.network.samples import Samples
from convscope.capture.network.trace import Layer, Trace, output_layer
from tests.capture.test_axes import Keeper, hooked
from tests.networks import TinyResNet
from tests.support.folding import FOLDS, Body, Folding, K, Mixing, blockwise, flipped_tiles

N = 5
UNTOLD = (
    "gives rows whose samples cannot be determined, since the network reorders or mixes the samples "
    "(with HeldOut(batch_size=1) it can)"
)


def prepared(inputs: Any, batch_size: int = 3) -> HeldOut:
    heldout = HeldOut(inputs if isinstance(inputs, tuple) else (inputs,), size=100, batch_size=batch_size)
    heldout.prepare()
    return heldout


def traced(model: nn.Module, inputs: Any, batch_size: int = 3) -> Trace:
    subject = Subject(model, model, torch.device("cpu"))
    return trace_layers(subject, prepared(inputs, batch_size))[0]


def by_name(model: nn.Module, inputs: torch.Tensor, names: Any = None) -> dict[str, Layer]:
    return {layer.name: layer for layer in select_layers(traced(model, inputs), names)}


class Gathering(Keeper):
    """Keeps all chunks of each layer."""

    def __init__(self) -> None:
        super().__init__()
        self.chunks: dict[str, list[torch.Tensor]] = {}

    def on_activation(self, record: Any) -> None:
        self.chunks.setdefault(record.layer.name, []).append(record.activation.clone())

    def of(self, name: str) -> torch.Tensor:
        return torch.cat(self.chunks[name])


@pytest.mark.parametrize("batch_size", [1, 3, 5])
@pytest.mark.parametrize("fold", FOLDS)
def test_each_sample_gets_its_own_rows(fold: str, batch_size: int) -> None:
    torch.manual_seed(0)
    rows, merge, (outer, inner) = FOLDS[fold]
    model, inputs = Folding(rows, merge).eval(), torch.randn(N, 3, 8, 8)
    keeper, heldout = Gathering(), prepared(inputs, batch_size)
    subject = Subject(model, model, torch.device("cpu"))
    found, logits = trace_layers(subject, heldout)
    layers = select_layers(found, ["body.conv1", "body.conv2", "body.head"])
    report = observe(subject, heldout, [*layers, found.output(logits)], [keeper])
    assert (report.unmatched, report.missing, report.failures) == ({}, set(), {})
    for name, layer in (("body.conv1", layers[0]), ("body.head", layers[2])):
        alone = torch.stack([_unit(model, image, name) for image in inputs[:, None]])  # (N, rows, C, ...)
        expected = alone[:, 0] if outer * inner == 1 else alone.movedim(1, 2)
        torch.testing.assert_close(keeper.of(name), expected, rtol=1e-4, atol=1e-5)
        assert layer.repeats == outer * inner
        if batch_size > 1:
            assert layer.rows == RowOrder(outer, inner)
    with torch.no_grad():
        torch.testing.assert_close(keeper.of("output"), model(inputs), rtol=1e-4, atol=1e-5)


def _unit(model: nn.Module, image: torch.Tensor, name: str) -> torch.Tensor:
    found = hooked(model, image, name)
    return torch.relu(found) if name == "body.conv1" else found


def test_folding_back() -> None:
    order, tensor = RowOrder(2, 3), torch.arange(24.0).view(24, 1)
    folded = order.fold(tensor)
    assert folded.shape == (4, 6, 1)
    assert folded[1, :, 0].tolist() == [3, 4, 5, 15, 16, 17]
    assert torch.equal(order.unfold(folded), tensor)


def test_a_layer_folds_and_unfolds_its_own_tensor() -> None:
    class ChannelsLast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 4, 1), nn.Linear(4, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.linear(self.conv(flipped_tiles(x)).movedim(1, -1))
            return x.unflatten(0, (2, -1, 4)).mean((0, 2, 3, 4))

    layer = by_name(ChannelsLast(), torch.randn(N, 3, 8, 8), "linear")["linear"]
    own = torch.randn(2 * N * 4, 4, 4, 5)
    folded = layer.fold(own)
    assert folded.shape == (N, 5, 8, 4, 4)
    torch.testing.assert_close(folded[2, :, 6], own[N * 4 + 2 * 4 + 2].movedim(-1, 0))
    assert torch.equal(layer.unfold(folded), own)


@pytest.mark.parametrize("fold", ["augmentation", "stacked", "tiles and flips"])
def test_a_dead_layer_is_not_lost(fold: str) -> None:
    """Its rows are all equal now, but it may come alive, and then they must be told apart."""
    rows, merge, order = FOLDS[fold]
    model = Folding(rows, merge, Body(dead=True))
    layers = by_name(model, torch.randn(N, 3, 8, 8))
    assert {layer.rows for layer in layers.values()} == {RowOrder(*order)}
    assert not any(layer.problem for layer in layers.values())


class DeadThenRearranged(nn.Module):
    """All rows are zero where the network goes over from frames to time first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        nn.init.zeros_(self.conv1.weight)
        nn.init.constant_(self.conv1.bias, -1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (N, T, 3, H, W)
        n, t = x.shape[:2]
        frames = F.relu(self.conv1(x.flatten(0, 1)))
        return (
            self.conv2(frames.unflatten(0, (n, t)).transpose(0, 1).flatten(0, 1)).unflatten(0, (t, n)).mean((0, 3, 4))
        )


def test_rows_that_are_moved_while_they_are_dead() -> None:
    layers = by_name(DeadThenRearranged(), torch.randn(N, 2, 3, 4, 4))
    assert layers["conv1"].rows == RowOrder(1, 2)
    assert layers["conv2"].rows == RowOrder(2, 1)


@pytest.mark.parametrize(
    "inputs",
    [
        torch.zeros(N, 3, 8, 8),
        torch.ones(N, 3, 8, 8) * torch.linspace(0, 1, 8),
        torch.cat([torch.zeros(N, 3, 8, 8), torch.rand(1, 3, 8, 8)]),
        torch.rand(2, 3, 8, 8),
    ],
    ids=["blank", "equal", "last differs", "two samples"],
)
def test_samples_that_are_equal(inputs: torch.Tensor) -> None:
    rows, merge, order = FOLDS["augmentation"]
    layers = by_name(Folding(rows, merge), inputs)
    assert {layer.rows for layer in layers.values()} == {RowOrder(*order)}


def test_images_of_whole_numbers() -> None:
    class Scaled(Folding):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.float() / 255)

    rows, merge, order = FOLDS["augmentation"]
    layers = by_name(Scaled(rows, merge), torch.randint(0, 255, (2, 3, 8, 8), dtype=torch.uint8))
    assert {layer.rows for layer in layers.values()} == {RowOrder(*order)}


def sort_by_size(x: torch.Tensor) -> torch.Tensor:
    return x[x.flatten(1).norm(dim=1).argsort()]


MIXES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "rolled": lambda x: x.roll(1, 0),
    "turned round": lambda x: x.flip(0),
    "sorted": sort_by_size,
    "shuffled": lambda x: x[torch.randperm(len(x))],
    "scan over samples": lambda x: x.cumsum(0),
    "difference of neighbours": lambda x: x - x.roll(1, 0),
    "channels across samples": lambda x: x.reshape(x.shape[1], -1, *x.shape[2:]).transpose(0, 1).contiguous(),
}


@pytest.mark.parametrize("mix", MIXES)
def test_rows_that_are_not_of_their_sample_are_given_to_nobody(mix: str) -> None:
    torch.manual_seed(0)
    model, inputs = Mixing(MIXES[mix]), torch.randn(N, 3, 4, 4)
    heldout, subject, keeper = prepared(inputs), Subject(model, model, torch.device("cpu")), Gathering()
    found, logits = trace_layers(subject, heldout)
    output = found.output(logits)
    report = observe(subject, heldout, [*select_layers(found), output], [keeper])
    assert set(keeper.chunks) == {"conv1"}
    assert report.unmatched == {"conv2": UNTOLD, "output": UNTOLD}
    assert output.problem == UNTOLD


def test_with_one_sample_at_a_time_every_row_is_its_own() -> None:
    model, inputs = Mixing(MIXES["turned round"]), torch.randn(N, 3, 4, 4)
    heldout, subject, keeper = prepared(inputs, 1), Subject(model, model, torch.device("cpu")), Gathering()
    found, logits = trace_layers(subject, heldout)
    report = observe(subject, heldout, [*select_layers(found), found.output(logits)], [keeper])
    assert report.unmatched == {}
    with torch.no_grad():
        expected = torch.cat([model(image) for image in inputs[:, None]])
    torch.testing.assert_close(keeper.of("output"), expected)


class Pixels(nn.Module):
    """Every position is a row."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 1), nn.Linear(4, K)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x).permute(2, 3, 0, 1)
        return self.linear(x.reshape(-1, 4)).view(*x.shape[:3], K).mean((0, 1))


def test_many_rows() -> None:
    layers = by_name(Pixels(), torch.randn(N, 3, 60, 60), ["conv", "linear"])
    assert [layer.rows for layer in layers.values()] == [RowOrder(), RowOrder(3600, 1)]


class Sparse(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.to_sparse()


def test_sparse_tensors_are_left_out() -> None:
    model = nn.Sequential(nn.Flatten(), Sparse(), nn.Linear(12, K))
    found = traced(model, torch.randn(N, 3, 2, 2))
    assert {layer.name: bool(layer.problem) for layer in found.modules()} == {"0": False, "1": True, "2": False}


def shuffled_and_back(x: torch.Tensor) -> torch.Tensor:
    order = torch.randperm(len(x))
    return (x[order] * 2)[order.argsort()]


KEPT: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "shuffled and back": shuffled_and_back,
    "dropout that stays on": lambda x: F.dropout(x, 0.5, training=True),
    "noise": lambda x: x + torch.randn_like(x),
    "drop path that stays on": lambda x: x * x.new_empty(len(x), 1, 1, 1).bernoulli_(0.5).div_(0.5),
    "sorted in each sample": lambda x: x.sort(1).values,
    "positions": lambda x: x + torch.linspace(0, 1, x.shape[-1]).expand(len(x), 1, 1, -1),
}


@pytest.mark.parametrize("mix", KEPT)
def test_rows_that_stay_with_their_sample(mix: str) -> None:
    layers = by_name(Mixing(KEPT[mix]), torch.randn(N, 3, 4, 4))
    assert [(layer.rows, layer.problem) for layer in layers.values()] == [(RowOrder(), ""), (RowOrder(), "")]


COMPANY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "batch norm": lambda x: F.batch_norm(x, None, None, training=True),
    "attention over the batch": lambda x: torch.einsum(
        "nm,mchw->nchw", torch.softmax(0.1 * x.flatten(1) @ x.flatten(1).T, 1), x
    ),
    "mean of the batch": lambda x: x - x.mean(0, keepdim=True),
}  # fmt: skip


@pytest.mark.parametrize("mix", COMPANY)
def test_what_depends_on_the_other_samples_is_measured_and_said(mix: str) -> None:
    found = traced(Mixing(COMPANY[mix]), torch.randn(N, 3, 4, 4))
    assert [layer.problem for layer in select_layers(found)] == ["", ""]
    assert len(found.notes) == 1
    assert "gives a sample other values in another batch" in found.notes[0]
    assert "HeldOut(batch_size=...)" in found.notes[0]


class NoStatistics(nn.Module):
    """Its second BatchNorm refuses one sample."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn1 = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)
        self.linear, self.bn2 = nn.Linear(4, K), nn.BatchNorm1d(K, track_running_stats=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn2(self.linear(F.relu(self.bn1(self.conv(x))).mean((2, 3))))


def test_batch_norm_without_statistics_that_refuses_one_sample() -> None:
    found = traced(NoStatistics(), torch.randn(N, 3, 4, 4))
    assert [layer.problem for layer in found.modules()] == [""] * 4
    assert [note.split(" gives ")[0] for note in found.notes] == ["bn1"]


class InParts(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.body, self.size = Body(), size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.body(part) for part in x.split(self.size)])


@pytest.mark.parametrize("size", [1, 2])
def test_a_batch_that_is_gone_through_in_parts(size: int) -> None:
    model, inputs = InParts(size), torch.randn(N, 3, 4, 4)
    (layer, *_) = select_layers(traced(model, inputs))
    assert "HeldOut(batch_size=1)" in layer.problem
    assert [layer.problem for layer in select_layers(traced(model, inputs, batch_size=1))] == ["", ""]


@pytest.mark.parametrize("mix", [lambda x: x, *KEPT.values()], ids=["plain", *KEPT])
def test_nothing_is_said_of_networks_that_do_not(mix: Any) -> None:
    assert traced(Mixing(mix), torch.randn(N, 3, 4, 4)).notes == []


def test_nothing_is_said_of_activations_that_are_written_over() -> None:
    assert traced(TinyResNet(4), torch.randn(N, 3, 8, 8)).notes == []


class EvenBatches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 1), nn.Linear(4, K)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) % 2:
            raise ValueError("pairs, please")
        return self.head(F.relu(self.conv(x)).mean((2, 3)))


def test_a_network_that_refuses_one_sample() -> None:
    model = EvenBatches()
    subject = Subject(model, model, torch.device("cpu"))
    found, logits = trace_layers(subject, prepared(torch.randn(6, 3, 4, 4), 4))
    (layer,) = select_layers(found)
    assert (layer.rows, layer.problem, layer.spatial) == (RowOrder(), "", (4, 4))
    assert logits.shape == (1, K)


def test_a_network_that_takes_one_sample_alone() -> None:
    class One(EvenBatches):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            (image,) = x
            return super().forward(torch.stack([image, image.flip(-1)])).mean(0, keepdim=True)

    layers = select_layers(traced(One(), torch.randn(N, 3, 4, 4), batch_size=1))
    assert [(layer.repeats, layer.problem) for layer in layers] == [(2, "")]
    with pytest.raises(ValueError, match="too many values"):
        traced(One(), torch.randn(N, 3, 4, 4), batch_size=2)


def test_a_pair_that_goes_through_one_branch_together() -> None:
    """Siamese networks: ``f(cat([x1, x2]))``."""

    class Siamese(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = Body()

        def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
            first, second = self.body(torch.cat([one, other])).chunk(2)
            return (first - second).abs()

    model = Siamese()
    heldout = HeldOut([((torch.randn(N, 3, 4, 4), torch.randn(N, 3, 4, 4)), torch.arange(N))], size=N, batch_size=4)
    heldout.prepare()
    subject = Subject(model, lambda pair: model(*pair), torch.device("cpu"))
    found, logits = trace_layers(subject, heldout)
    assert {layer.rows for layer in select_layers(found)} == {RowOrder(2, 1)}
    assert found.output(logits).rows == RowOrder()


def test_tensors_that_belong_to_all_samples() -> None:

    few = Samples([{"x": torch.full((1, 2), float(i)), "scale": torch.tensor(2.0)} for i in range(3)], (True, False))
    batch = few.batch([2, 0, 4])
    assert batch["x"][:, 0].tolist() == [2, 0, 1]
    assert batch["scale"] == 2


def test_half_precision_and_deep_networks_are_told_too() -> None:
    """Rows that are nearly alike, in few digits."""
    torch.manual_seed(0)
    deep = nn.Sequential(*[nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()) for _ in range(12)])
    model = Folding(lambda x: torch.cat([x, x.flip(-1)]), lambda z, n: blockwise(z, n).mean((2, 3)), deep)
    model, inputs = model.bfloat16(), torch.randn(N, 3, 8, 8).bfloat16()
    assert {layer.rows for layer in by_name(model, inputs).values()} == {RowOrder(2, 1)}


def test_the_random_stream_and_the_network_are_left_alone() -> None:
    model, inputs = Folding(*FOLDS["augmentation"][:2], Body(dead=True)), torch.randn(N, 3, 8, 8)
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    traced(model, inputs)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class Prompted(nn.Module):
    """Puts an image of its own before the batch, and takes its row away at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.prompt = nn.Parameter(torch.randn(1, 3, 6, 6))
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(torch.cat([self.prompt, x])).mean((2, 3))[1:]


@pytest.mark.parametrize(("model", "said"), [(Prompted(), True), (Pixels(), False)])
def test_with_one_sample_a_chunk_rows_of_the_networks_own_are_said(model: nn.Module, said: bool) -> None:
    notes = traced(model, torch.randn(N, 3, 6, 6), batch_size=1).notes
    assert any("1 of 2 rows alike for every sample" in note for note in notes) is said


class Empties(nn.Module):
    """Makes tensors without rows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        none = torch.cat([torch.empty(0, 4), x.new_zeros(0, 4)])
        x = torch.cat([none.relu(), x.mean((2, 3)).repeat(1, 2)[:, :4]])
        x[x > 1e9] *= 2
        return x


def test_tensors_without_rows_do_no_harm() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), Empties(), nn.Linear(4, K))
    assert list(by_name(model, torch.randn(N, 3, 6, 6), ["0"])) == ["0"]


class Nearest(nn.Module):
    """Needs three samples at once."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        near = torch.cdist(x.flatten(1), x.flatten(1)).topk(3, largest=False)[0]
        return self.conv(x).mean((2, 3)) + 0 * near.sum(1, keepdim=True)


def test_a_network_that_needs_three_samples_is_traced() -> None:
    assert list(by_name(Nearest(), torch.randn(N, 3, 6, 6), ["conv"])) == ["conv"]


@pytest.mark.parametrize("part", ["", "0", "1", "2"])
def test_backward_hooks_of_the_users_hide_no_layer(part: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, K)).eval()
    heldout = HeldOut((torch.randn(N, 3, 6, 6), torch.arange(N) % K), size=N)
    heldout.prepare()
    subject = Subject(model, model, torch.device("cpu"), loss=F.cross_entropy)
    model.get_submodule(part).register_full_backward_hook(lambda *_: None)
    layers = select_layers(trace_layers(subject, heldout)[0], ["0"])
    seen = Gradients()
    report = observe(subject, heldout, layers, [seen])
    assert not report.missing
    assert seen.names == ["0"]


class Gradients(Keeper):
    """The layers of which a gradient came."""

    needs_gradient = True

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def on_gradient(self, record: Any, gradient: torch.Tensor) -> None:
        self.names.append(record.layer.name)


def test_an_output_with_several_rows_per_sample_has_them_before_its_positions() -> None:
    assert output_layer(torch.zeros(2, 3, 4, 5), RowOrder(2, 1)).spatial == (2, 4, 5)
    assert output_layer(torch.zeros(1, 3, 4, 5)).spatial == (4, 5)
