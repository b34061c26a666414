"""What callbacks are made of, each part against an account written out in plain Python or NumPy."""

from __future__ import annotations

import math
import random
import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from convscope.callbacks.engine.findings import Findings, History, LayerResult, Moment
from convscope.callbacks.engine.stopwatch import Stopwatch
from convscope.callbacks.parts.deaths import Death, Deaths
from convscope.callbacks.parts.example_images import ExampleImages
from convscope.callbacks.parts.reading import read
from convscope.callbacks.parts.snapshots import Features, LayerSnapshot
from convscope.callbacks.parts.weight_changes import WeightChanges
from convscope.capture import HeldOut, Subject, select_layers, trace_layers
from convscope.metrics import ChannelCorrelation
from convscope.metrics.functional import linear_cka
from tests.networks import Plain


def at(epoch: int) -> Moment:
    return Moment("validation", epoch, 10 * epoch + 9)


class Account:
    """Every filter's deaths as a list of (epoch it died, epoch it came back or None)."""

    def __init__(self, filters: int) -> None:
        self.lives: list[list[list[int | None]]] = [[] for _ in range(filters)]

    def record(self, dead: list[bool], epoch: int) -> tuple[int, int]:
        died = back = 0
        for life, now in zip(self.lives, dead, strict=True):
            was = bool(life) and life[-1][1] is None
            if now and not was:
                life.append([epoch, None])
                died += 1
            elif was and not now:
                life[-1][1] = epoch
                back += 1
        return died, back


@pytest.mark.parametrize("seed", range(4))
def test_the_register_of_deaths_is_the_plain_account(seed: int) -> None:
    rng, deaths, account = random.Random(seed), Deaths(), Account(6)
    for epoch in range(9):
        dead = [rng.random() < 0.4 for _ in range(6)]
        counted = deaths.died_and_revived("conv", torch.tensor(dead))
        expected = account.record(dead, epoch)
        assert counted == (None if epoch == 0 else expected)
        deaths.record("conv", torch.tensor(dead), at(epoch))
    expected_deaths = {
        number: Death(
            "conv", number, life[-1][0], at(life[-1][0]).step, life[-1][1],
            None if life[-1][1] is None else at(life[-1][1]).step, len(life),
        )
        for number, life in enumerate(account.lives) if life
    }  # fmt: skip
    listed = deaths.listed()
    assert {death.filter: death for death in listed} == expected_deaths
    latest = [max(death.step, death.back_step or -1) for death in listed]
    assert latest == sorted(latest, reverse=True)
    again = Deaths()
    again.load_state_dict(deaths.state_dict())
    assert again.listed() == listed
    deaths.record("conv", torch.ones(6, dtype=torch.bool), at(99))
    assert again.listed() == listed  # a state is a copy


def test_a_layer_of_another_size_begins_again() -> None:
    deaths = Deaths()
    deaths.record("conv", torch.tensor([True, False]), at(0))
    assert deaths.died_and_revived("conv", torch.tensor([True, False, True])) is None
    deaths.record("conv", torch.tensor([False, False, True]), at(1))
    assert [(death.filter, death.epoch, death.times) for death in deaths.listed()] == [(2, 1, 1)]


def test_the_table_of_deaths_is_cut_and_says_so() -> None:
    deaths = Deaths()
    assert deaths.markdown() == ""
    deaths.record("a_b", torch.ones(100, dtype=torch.bool), at(0))
    assert len(deaths.markdown().splitlines()) == 102
    assert "more" not in deaths.markdown()
    deaths.record("last", torch.ones(3, dtype=torch.bool), at(1))
    deaths.record("last", torch.tensor([False, True, True]), at(2))
    lines = deaths.markdown().splitlines()
    assert lines[2] == "| last | 0 | 1 | 2 | 1 |"  # came back: the latest event
    assert lines[3] == "| last | 1 | 1 |  | 1 |"
    assert lines[5] == "| a\\_b | 0 | 0 |  | 1 |"
    assert lines[-1] == "… and 3 more, in `FilterHealth.deaths`."
    assert len(lines) == 2 + 100 + 2


def network() -> tuple[nn.Module, Any]:
    model = Plain(channels=3)
    heldout = HeldOut((torch.randn(4, 3, 8, 8),))
    heldout.prepare()
    found, _ = trace_layers(Subject(model, model, torch.device("cpu")), heldout)
    return model, select_layers(found, "conv*")


def checked(changes: WeightChanges, layers: Any) -> dict[str, dict[str, float]]:
    """What is compared with the last check; the size of the weights needs no check before it."""
    changes.measure(layers)
    found = {layer.name: changes.scalars(layer.name) for layer in layers}
    return {name: {key: value for key, value in row.items() if key != "weight_norm"} for name, row in found.items()}


def test_the_size_of_weights_is_known_from_the_first_check_on() -> None:
    model, layers = network()
    changes = WeightChanges()
    changes.measure(layers)
    found = {layer.name: changes.scalars(layer.name)["weight_norm"] for layer in layers}
    assert found == {name: pytest.approx(float(getattr(model, name).weight.norm())) for name in ("conv1", "conv2")}


def move(module: nn.Module, share: float) -> float:
    """Add noise, a share of the weight's norm; returns the relative size of the change."""
    with torch.no_grad():
        before = module.weight.clone()
        noise = torch.randn_like(before)
        module.weight += share * before.norm() / noise.norm() * noise
        return float((module.weight - before).norm() / before.norm())


def test_weights_are_compared_with_the_last_check_and_biases_are_not() -> None:
    model, layers = network()
    changes = WeightChanges()
    assert checked(changes, layers) == {"conv1": {}, "conv2": {}}
    moved = {"conv1": move(model.conv1, 0.1), "conv2": move(model.conv2, 0.02)}
    with torch.no_grad():
        model.conv1.bias += 100
    found = checked(changes, layers)
    assert {name: row["update_ratio"] for name, row in found.items()} == pytest.approx(moved, rel=1e-4)
    assert {name: row["not_learning"] for name, row in found.items()} == {"conv1": 0.0, "conv2": 0.0}
    found = checked(changes, layers)  # nothing moved: no layer is singled out
    assert found == {name: {"update_ratio": 0.0, "not_learning": 0.0} for name in found}


def test_a_layer_that_stands_still_while_others_move_is_flagged_if_it_should_learn() -> None:
    model, layers = network()
    changes = WeightChanges()
    checked(changes, layers)
    model.conv2.requires_grad_(False)  # its owner froze it from the start: no complaint
    move(model.conv1, 0.1)
    assert checked(changes, layers)["conv2"] == {"update_ratio": 0.0}
    model.conv2.requires_grad_(True)
    move(model.conv1, 0.1)
    assert checked(changes, layers)["conv2"] == {"update_ratio": 0.0, "not_learning": 1.0}
    move(model.conv2, 0.1)
    assert checked(changes, layers)["conv2"]["not_learning"] == 0.0
    model.conv2.requires_grad_(False)  # it had learned: frozen later, it is flagged
    move(model.conv1, 0.1)
    assert checked(changes, layers)["conv2"]["not_learning"] == 1.0


def test_weights_that_overflow_or_change_their_shape_are_not_compared() -> None:
    model, layers = network()
    changes = WeightChanges()
    checked(changes, layers)
    kept = model.conv1.weight.detach().clone()
    with torch.no_grad():
        model.conv1.weight[0, 0, 0, 0] = math.inf
    assert checked(changes, layers)["conv1"] == {}
    with torch.no_grad():
        model.conv1.weight.copy_(1.5 * kept)
    assert checked(changes, layers)["conv1"]["update_ratio"] == pytest.approx(0.5)  # with the last finite ones
    model.conv1.weight = nn.Parameter(torch.randn(kept.shape[0], 3, 1, 1))
    assert checked(changes, layers)["conv1"] == {}


def test_a_check_point_holds_weights_once_and_a_resumed_run_goes_on() -> None:
    model, layers = network()
    changes = WeightChanges()
    checked(changes, layers)
    move(model.conv2, 0.3)
    state = changes.state_dict()  # conv1 is in the model itself, conv2 as it was is not
    assert state["before"]["conv1"] is None
    assert state["before"]["conv2"].shape == model.conv2.weight.flatten().shape
    again = WeightChanges()
    again.load_state_dict(state)
    again.resume(model)
    assert checked(again, layers) == checked(changes, layers)
    gone = WeightChanges()
    gone.load_state_dict({"before": {"nowhere": None, "conv1": None}, "learned": ["conv1"]})
    gone.resume(model)
    assert set(gone.state_dict()["before"]) == {"conv1"}
    assert gone.state_dict()["learned"] == ["conv1"]


def features(seed: int, samples: int = 40, channels: int = 6) -> torch.Tensor:
    return torch.randn(samples, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1e-8, 1e8])
def test_rounded_features_give_the_cka_of_the_features(debiased: bool, scale: float) -> None:
    a, b = features(0), features(1) + features(0)
    now, other = Features.of(scale * (a + 5), debiased), Features.of(b, debiased)
    expected = float(linear_cka(a, b, debiased))
    assert read(now.cka({"one": other, "the same": other, "itself": now})) == pytest.approx(
        {"one": expected, "the same": expected, "itself": 1.0}, abs=2e-4
    )
    assert Features.of(a, debiased).half.abs().max() == 1.0


def snapshot(seed: int) -> tuple[LayerSnapshot, np.ndarray]:
    values = features(seed)
    metric = ChannelCorrelation(6)
    metric.update(values.float())
    return LayerSnapshot.of(values, metric.compute(), debiased=False), values.numpy()


def test_snapshots_compare_as_numpy_does_and_live_through_a_checkpoint() -> None:
    (now, a), (before, b) = snapshot(0), snapshot(1)
    found = read(LayerSnapshot.load(now.state_dict(), False).since(LayerSnapshot.load(before.state_dict(), False)))
    assert found == read(now.since(before))
    one, other = np.corrcoef(a.T), np.corrcoef(b.T)
    change = np.linalg.norm(one - other) / np.linalg.norm(other)
    assert found["correlation_change"] == pytest.approx(change, abs=1e-3)
    spread = (a.var(0).sum() + b.var(0).sum()) / 2
    shift = math.sqrt(((a.mean(0) - b.mean(0)) ** 2).sum() / spread)
    assert found["mean_shift"] == pytest.approx(shift, rel=0.02)
    variances = np.abs(a.var(0) - b.var(0)).sum() / (a.var(0) + b.var(0)).sum()
    assert found["variance_shift"] == pytest.approx(variances, rel=0.02)


def test_snapshots_of_another_width_compare_no_statistics() -> None:
    now, before = snapshot(0)[0], snapshot(1)[0]
    narrow = LayerSnapshot(before.features, before.matrix[:3, :3], before.mean[:3], before.variance[:3])
    assert now.since(narrow) == {}


def test_a_history_is_a_table_with_gaps_and_its_state_is_a_copy() -> None:
    history = History()
    history.append(Moment("start", 0, 0), {"x": {"a": 1.0, "b": 2.0}})
    history.append(Moment("validation", 0, 3), {"x": {"b": 3.0}, "y": {"a": 4.0}})
    history.append(Moment("step", 1, 5), {})
    assert (history.epochs, history.steps) == ([0, 1, 1], [0, 3, 5])
    nan = math.nan
    np.testing.assert_array_equal(history.table("x", ["b", "a", "c"]), [[2, 3, nan], [1, nan, nan], [nan, nan, nan]])
    again = History()
    again.load_state_dict(history.state_dict())
    history.append(Moment("train", 1, 7), {})
    assert again.steps == [0, 3, 5]
    np.testing.assert_array_equal(again.table("y", ["a"]), [[nan, 4, nan]])


def test_findings_are_tagged_by_family_quantity_and_layer() -> None:
    layers = {"a": LayerResult({"x": 1.0, "y": 2.0}), "b": LayerResult({"y": 3.0})}
    found = Findings("probe", layers=layers, summary={"depth": 4.0})
    assert found.values == {"x": {"a": 1.0}, "y": {"a": 2.0, "b": 3.0}}
    assert found.scalars() == {"probe/depth": 4.0, "probe/x/a": 1.0, "probe/y/a": 2.0, "probe/y/b": 3.0}


@pytest.mark.parametrize(
    ("trigger", "label", "trained"),
    [("start", "before training", 3), ("step", "step 7", 3), ("validation", "epoch 3", 4), ("train", "epoch 3", 4)],
)
def test_moments_in_words(trigger: str, label: str, trained: int) -> None:
    assert (Moment(trigger, 3, 7).label, Moment(trigger, 3, 7).epochs_trained) == (label, trained)


def test_the_cost_of_checks_and_how_long_the_next_one_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def wait(seconds: float) -> None:
        clock[0] += seconds

    cost, free = Stopwatch(0.2), Stopwatch(None)
    assert (cost.wait(), cost.seconds, cost.overhead) == (0.0, None, None)
    wait(50)  # what comes before training is not counted
    for one in (cost, free):
        one.start_of_training()
    wait(8)
    for one in (cost, free):
        one.begin()
    wait(2)
    for one in (cost, free):
        one.end()
    assert (cost.seconds, cost.overhead) == (2.0, 0.25)
    assert (cost.wait(), free.wait()) == (10.0, 0.0)
    wait(4)
    assert cost.wait() == 6.0
    wait(7)
    assert cost.wait() == 0.0
    cost.begin()
    wait(1)
    cost.end()
    assert cost.overhead == pytest.approx(1 / 11)
    cost.begin()
    cost.end()  # no training in between: no share of it
    assert cost.overhead is None


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pictures_of_samples_are_stretched_over_all_greys(channels: int) -> None:
    inputs = torch.randn(5, channels, 4, 6)
    heldout = HeldOut((inputs,))
    heldout.prepare()
    heldout._blocks = [heldout._blocks[0].numbered(torch.tensor([7, -1, 2, 9, 4]))]
    pictures = ExampleImages(heldout)
    assert pictures.numbers == [2, 4, 7, 9]  # not the one that only fills a share
    assert pictures.has_images
    for number, place in ((7, 0), (2, 2), (9, 3), (4, 4)):
        grey = inputs[place].mean(0, keepdim=True).expand(3, -1, -1)
        image = (inputs[place] if channels == 3 else grey).numpy()
        low, high = np.quantile(image, (0.01, 0.99))
        expected = np.round(((image - low) / (high - low)).clip(0, 1) * 255)
        found = pictures.picture(number)
        assert found is not None
        assert (found.shape, found.dtype) == ((4, 6, 3), np.uint8)
        assert np.abs(found.astype(float) - expected.transpose(1, 2, 0)).max() <= 1
        assert (found.min(), found.max()) == (0, 255)


def test_a_flat_image_is_black_and_what_is_no_image_has_no_picture() -> None:
    flat = HeldOut((torch.full((2, 3, 4, 4), 0.5),))
    flat.prepare()
    assert ExampleImages(flat).picture(0).max() == 0  # type: ignore[union-attr]
    for inputs in (torch.randn(2, 8), torch.randn(2, 3, 4, 4).to(torch.complex64)):
        other = HeldOut((inputs,))
        other.prepare()
        assert not ExampleImages(other).has_images
        assert ExampleImages(other).picture(0) is None
