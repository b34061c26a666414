"""Private random generators are found wherever they hide, and put back."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler, Subset, TensorDataset

from convscope.capture.state.generators import find_generators, preserved_generators


class Slotted:
    __slots__ = ("rng",)

    def __init__(self, rng: Any) -> None:
        self.rng = rng

    def draw(self) -> float:
        return self.rng.random()


def closure(rng: Any) -> Any:
    return lambda: rng.random()


@pytest.mark.parametrize(
    "hide",
    [
        lambda rng: rng,
        lambda rng: SimpleNamespace(deep=SimpleNamespace(rng=rng)),
        lambda rng: {"a": [(rng,)]},
        Slotted,
        lambda rng: Slotted(rng).draw,
        closure,
        lambda rng: Subset(SimpleNamespace(rng=rng), [0]),  # type: ignore[arg-type]
    ],
)
@pytest.mark.parametrize(
    ("rng", "draw"),
    [
        (np.random.default_rng(0), lambda rng: rng.random()),
        (np.random.RandomState(0), lambda rng: rng.random()),
        (random.Random(0), lambda rng: rng.random()),
        (np.random.default_rng(0), lambda rng: rng.spawn(1)[0].random()),
        (np.random.SeedSequence(0), lambda seeds: np.random.default_rng(seeds.spawn(1)[0]).random()),
        (torch.Generator().manual_seed(0), lambda rng: torch.rand(1, generator=rng).item()),
    ],
)
def test_a_generator_goes_on_where_it_was(hide: Any, rng: Any, draw: Any) -> None:
    holder = hide(rng)
    with preserved_generators(holder):
        first = draw(rng)
    assert find_generators(holder) == [rng]
    assert draw(rng) == first


def test_seeds_of_data_are_not_seeded_anew() -> None:
    seeds = np.random.SeedSequence(3)
    with preserved_generators(seeds, seed=0):
        assert seeds.spawn(2)[1].spawn_key == (1,)
    assert (seeds.entropy, seeds.n_children_spawned) == (3, 0)


def test_it_is_put_back_after_an_exception() -> None:
    rng, drawn = random.Random(0), []

    def fail() -> None:
        drawn.append(rng.random())
        raise RuntimeError

    with pytest.raises(RuntimeError), preserved_generators([rng]):
        fail()
    assert drawn == [rng.random()]


def test_loaders_and_samplers_are_looked_into() -> None:
    rng = torch.Generator()
    data = TensorDataset(torch.zeros(4))
    assert find_generators(DataLoader(data, sampler=RandomSampler(data, generator=rng))) == [rng]


def test_a_circle_and_a_great_many_items_come_to_an_end() -> None:
    circle: list[Any] = [list(range(10**6))]
    circle.append(circle)
    assert find_generators(circle) == []
