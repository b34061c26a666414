"""Gradients handed out one by one, against a plain ``torch.autograd.grad`` for all places."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest
import torch
from torch.autograd.graph import get_gradient_edge

from convscope.capture.gradients import hand_gradients

Graph = tuple[torch.Tensor, list[torch.Tensor]]


def chain() -> Graph:
    x = torch.randn(4, 5, requires_grad=True)
    places = [x.tanh()]
    for _ in range(5):
        places.append((places[-1] * 2).sin())
    return places[-1].sum(), places


def branches() -> Graph:
    """Two branches that meet again, and one that does not reach the loss."""
    x = torch.randn(4, 5, requires_grad=True)
    start = x.tanh()
    one, other, unused = start * 2, start.exp(), x.sin()
    joined = one + other
    return joined.square().sum(), [start, one, unused, other, joined]


def views_written_in_place() -> Graph:
    whole = torch.randn(4, 6, requires_grad=True) * 1
    left, right = whole.chunk(2, 1)
    rectified = left.relu()
    places = [whole, left, right, rectified, right * 3]
    return rectified.sum() + places[-1].square().sum(), places


def two_starts() -> Graph:
    one, other = (torch.randn(3, requires_grad=True).exp() for _ in range(2))
    return (one * other).sum(), [one, other]


@pytest.mark.parametrize("make", [chain, branches, views_written_in_place, two_starts])
@pytest.mark.parametrize("half", [False, True])
def test_each_place_gets_its_gradient_once(make: Callable[[], Graph], half: bool) -> None:
    loss, places = make()
    edges = [get_gradient_edge(place) for place in places]
    expected = torch.autograd.grad(loss, edges, allow_unused=True, retain_graph=True)
    found: list[tuple[int, torch.Tensor | None]] = []
    hand_gradients(loss, edges, half, lambda *given: found.append((given[0], _unscaled(*given[1:]))))
    assert sorted(place for place, _ in found) == list(range(len(places)))
    for place, gradient in found:
        wanted = expected[place]
        assert (gradient is None) == (wanted is None)
        if gradient is not None and wanted is not None:
            torch.testing.assert_close(gradient, wanted)


def _unscaled(gradient: torch.Tensor | None, scale: float) -> torch.Tensor | None:
    return None if gradient is None else gradient / scale


def test_a_gradient_is_freed_before_the_next_but_one_comes() -> None:
    loss, places = chain()
    edges = [get_gradient_edge(place) for place in places]
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def hand(place: int, gradient: torch.Tensor | None, scale: float) -> None:
        nonlocal most
        assert gradient is not None
        alive.append(weakref.ref(gradient))
        most = max(most, sum(one() is not None for one in alive))

    hand_gradients(loss, edges, False, hand)
    assert len(alive) == len(places)
    assert most <= 2


def test_an_error_of_the_receiver_comes_out_as_it_is() -> None:
    loss, places = chain()
    edges = [get_gradient_edge(place) for place in places]

    def fail(place: int, gradient: torch.Tensor | None, scale: float) -> None:
        if place == 3:
            raise torch.OutOfMemoryError("no space")

    with pytest.raises(torch.OutOfMemoryError, match="no space"):
        hand_gradients(loss, edges, False, fail)


def test_a_loss_without_a_graph_is_refused() -> None:
    _, places = chain()
    with pytest.raises(RuntimeError, match="does not require grad"):
        hand_gradients(torch.tensor(1.0), [get_gradient_edge(places[0])], False, lambda *given: None)
