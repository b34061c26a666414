"""Settle a run's output and loss before training, by running a few held-out samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from convscope.capture.batches import tree_map, tree_tensors
from convscope.capture.heldout import Chunk, HeldOut
from convscope.capture.isolation import isolated
from convscope.capture.loss import Loss, inferred_loss, is_of_logits, own_loss, try_loss
from convscope.capture.observation import Subject
from convscope.capture.outputs import Outputs, Runs, Stated, settle_outputs
from convscope.capture.targets import IGNORED

_TRIED = 8  # samples: enough to see a batch axis and what values look like, cheap before training


def settle(subject: Subject, heldout: HeldOut, loss: Loss | None = None) -> Outputs:
    """Decide which part of what the network returns is its output, and set the subject's ``outputs`` and ``loss``.

    Every process comes to the verdict of the first one. The network is left as it was.

    Args:
        subject: The network.
        heldout: The prepared held-out set.
        loss: The user's own loss, None to infer it.

    Raises:
        ValueError: The user names logits that are not there, or a loss that cannot be used.
    """
    outputs = _agreed(heldout, lambda: _verdict(subject, heldout, loss))
    subject.outputs = outputs
    subject.loss = None
    if heldout.targets is None or outputs.shape is None:
        return outputs
    subject.loss = inferred_loss(outputs)
    if loss is not None:
        ignored = heldout.summary is not None and heldout.summary.ignored
        subject.loss = own_loss(loss, heldout.labels, ignored, subject.device)
        _try(subject, heldout, loss, subject.loss)
    return outputs


def _agreed(heldout: HeldOut, decide: Callable[[], Outputs]) -> Outputs:
    """The first process's verdict, with this process's own function of the user's; an error is one on all."""
    found: Outputs | None = None
    failure: Exception | None = None
    try:
        found = decide()
    except Exception as error:
        failure = error
    plain = None if found is None else replace(found, selector=None)
    everyone: list[tuple[Outputs | None, str | None]] = heldout.gather(
        (plain, None if failure is None else f"{type(failure).__name__}: {failure}")
    )
    if failure is not None:
        raise failure
    failed = next((message for _, message in everyone if message is not None), None)
    if failed is not None:
        raise ValueError(f"on another process: {failed}")
    first = everyone[0][0]
    return replace(first, selector=found.selector) if first is not None and found is not None else Outputs(path=None)


def _verdict(subject: Subject, heldout: HeldOut, loss: Loss | None) -> Outputs:
    few = _few(heldout)
    one = tree_map(lambda t: t[:1], few.inputs)
    runs = [one, few.inputs] if len(few.index) > 1 else [one]
    with isolated(subject.module, seed=heldout.seed, gradients=False):
        returned = [subject.returned(inputs) for inputs in runs]
    first = next(iter(tree_tensors(few.inputs)), torch.empty(0))
    shape = tuple(first.shape[1:])
    stated = Stated(heldout.logits, heldout.classes, is_of_logits(loss))
    return settle_outputs(
        Runs(returned, [1, len(few.index)][: len(runs)], shape, lambda: _with_graph(subject, heldout, few.inputs)),
        heldout.summary,
        stated,
    )


def _few(heldout: HeldOut) -> Chunk:
    return next(heldout.chunks(min(_TRIED, max(2, heldout.batch_size))))


def _with_graph(subject: Subject, heldout: HeldOut, inputs: Any) -> Any:
    """What the network returns with its graph, also where its parameters are frozen; without one where it fails so."""

    def tracked(tensor: torch.Tensor) -> torch.Tensor:
        # The copy lets the network write into its input.
        return tensor.detach().requires_grad_().clone() if tensor.is_floating_point() else tensor

    try:
        with isolated(subject.module, seed=heldout.seed, gradients=True):
            return subject.returned(tree_map(tracked, inputs))
    except torch.OutOfMemoryError:
        raise
    except Exception:  # a tensor of inference mode, a backbone that refuses: then values alone have to tell
        return None


def _try(subject: Subject, heldout: HeldOut, loss: Loss, total: Loss) -> None:
    few = _few(heldout)
    if few.targets is None:
        return
    with isolated(subject.module, seed=heldout.seed, gradients=False):
        outputs = subject.logits(few.inputs)
        targets = few.targets.to(outputs.device)
        counted = torch.ones(len(targets), dtype=torch.bool, device=targets.device)
        if heldout.summary is not None and heldout.summary.ignored:
            counted = (targets != IGNORED).reshape(len(targets), -1).any(1)
        if len(outputs) == len(targets) and bool(counted.any()):
            outputs, targets = outputs[counted], targets[counted]
            try_loss(loss, total, heldout.labels, outputs, targets, subject.precision)
