"""Gradients of a loss at places inside the network, each handed out as soon as the backward has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.autograd.graph import GradientEdge, Node

HALF_SCALES = (2.0**16, 2.0**8)
"""Factors for the loss that are tried where activations are float16, before the loss as it is."""

Gradients = list[torch.Tensor | None]
Hand = Callable[[int, torch.Tensor | None, float], None]
"""Receiver of a place's number, its gradient (None if the loss does not depend on it), and its scale."""


def hand_gradients(loss: torch.Tensor, edges: Sequence[GradientEdge], half: bool, hand: Hand) -> None:
    """Call ``hand`` once for each edge. Gradients come one after the other, so that few are in memory at a time.

    In float16 those of a confident network would underflow to zero: the loss is scaled up, by a power of two, which
    changes no digit. Torch gives no gradients through a reentrant checkpoint to several places at once: there each edge
    has a backward of its own.

    Raises:
        RuntimeError: if none of the edges has a gradient.
    """
    graph = _graph(loss)
    if any(node.name() == "CheckpointFunctionBackward" for node in graph):
        _hand_all(_one_by_one(loss, edges), 1.0, hand)
    elif half:
        _hand_all(*_scaled(loss, edges), hand)
    else:
        _hand_as_they_come(loss, edges, graph, hand)


def _hand_all(found: Gradients, scale: float, hand: Hand) -> None:
    for place in reversed(range(len(found))):
        hand(place, found.pop(), scale)  # popped, so that each is freed at once


def _hand_as_they_come(loss: torch.Tensor, edges: Sequence[GradientEdge], graph: Sequence[Node], hand: Hand) -> None:
    """One backward that runs as far as the furthest edges; hooks take the gradients of the others on its way."""
    waiting = set(range(len(edges)))

    def take(place: int, gradient: torch.Tensor | None) -> None:
        waiting.discard(place)
        hand(place, gradient, 1.0)

    last = _furthest(edges, graph)
    hooks = [
        edge.node.register_prehook(lambda found, place=place, nr=edge.output_nr: take(place, found[nr]))  # type: ignore[misc]
        for place, edge in enumerate(edges)
        if place not in last
    ]
    try:
        ends = torch.autograd.grad(loss, [edges[place] for place in last], allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    for place, gradient in zip(last, ends, strict=True):
        take(place, gradient)
    for place in sorted(waiting):
        hand(place, None, 1.0)


def _furthest(edges: Sequence[GradientEdge], graph: Sequence[Node]) -> list[int]:
    """Numbers of the edges from which the backward reaches no other: it passes all others on its way to them."""
    wanted = {edge.node for edge in edges}
    passing: set[Node] = set()  # nodes on the way to an edge
    for node in graph:
        if any(following in wanted or following in passing for following, _ in node.next_functions):
            passing.add(node)
    return [place for place, edge in enumerate(edges) if edge.node not in passing]


def _graph(loss: torch.Tensor) -> list[Node]:
    """Nodes of the loss's graph, each after all to which it leads."""
    if loss.grad_fn is None:
        return []
    ordered: list[Node] = []
    seen, waiting = {loss.grad_fn}, [(loss.grad_fn, iter(loss.grad_fn.next_functions))]
    while waiting:
        node, following = waiting[-1]
        ahead = next((one for one, _ in following if one is not None and one not in seen), None)
        if ahead is None:
            ordered.append(node)
            waiting.pop()
        else:
            seen.add(ahead)
            waiting.append((ahead, iter(ahead.next_functions)))
    return ordered


def _scaled(loss: torch.Tensor, edges: Sequence[GradientEdge]) -> tuple[Gradients, float]:
    for scale in HALF_SCALES:
        found = torch.autograd.grad(loss * scale, edges, allow_unused=True, retain_graph=True)
        if all(gradient is None or bool(torch.isfinite(gradient).all()) for gradient in found):
            return list(found), scale
    return list(torch.autograd.grad(loss, edges, allow_unused=True)), 1.0


def _one_by_one(loss: torch.Tensor, edges: Sequence[GradientEdge]) -> Gradients:
    found: Gradients = []
    failure: Exception | None = None
    for edge in edges:
        try:
            found += torch.autograd.grad(loss, [edge], allow_unused=True, retain_graph=True)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            failure = error
            found.append(None)
    if failure is not None and all(gradient is None for gradient in found):
        raise failure
    return found
