"""Gradients of a loss at places inside the network, as many as can be computed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.autograd.graph import GradientEdge, Node

HALF_SCALES = (2.0**16, 2.0**8)
"""Factors for the loss that are tried where activations are float16, before the loss as it is."""

Gradients = list[torch.Tensor | None]


def gradients_at(loss: torch.Tensor, edges: Sequence[GradientEdge], half: bool) -> tuple[Gradients, float]:
    """Gradients at all edges, None where the loss does not depend on one, and the factor by which they are scaled up.

    In float16 those of a confident network would underflow to zero; scaling by a power of two changes no digit. Torch
    gives no such gradients through a reentrant checkpoint: those at edges behind it are computed one by one.

    Raises:
        RuntimeError: if none of them has a gradient.
    """
    if _has_reentrant_checkpoint(loss):
        return _one_by_one(loss, edges), 1.0
    for scale in HALF_SCALES if half else ():
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


def _has_reentrant_checkpoint(loss: torch.Tensor) -> bool:
    waiting: list[Node | None] = [loss.grad_fn]
    seen: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == "CheckpointFunctionBackward":
            return True
        waiting += [following for following, _ in node.next_functions]
    return False
