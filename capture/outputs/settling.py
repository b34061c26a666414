"""Settle a run's output and loss before training, by running a few held-out samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from convscope.capture.data.batches import tree_map, tree_tensors
from convscope.capture.data.heldout import Chunk, HeldOut
from convscope.capture.data.targets import counted_rows
from convscope.capture.observation import Subject
from convscope.capture.outputs.choice import Outputs
from convscope.capture.outputs.loss import Loss, inferred_loss, is_of_logits, own_loss, try_loss
from convscope.capture.outputs.verdict import Runs, Stated, settle_outputs
from convscope.capture.state.isolation import isolated

_TRIED = 8  # samples: enough to see a batch axis and what values look like, cheap before training


@dataclass(frozen=True)
class _Tried:
    """A few held-out samples, and the network's results for the first of them and for all."""

    chunk: Chunk
    returned: list[Any]
    counts: list[int]


def settle(subject: Subject, heldout: HeldOut, loss: Loss | None = None) -> Outputs:
    """Decide which part of the network's result is its output, and set the subject's ``outputs`` and ``loss``.

    Every process must call it, and gets the verdict of the first one. The network is left as it was.

    Args:
        subject: The network.
        heldout: The prepared held-out set.
        loss: The user's own loss, None to infer it.

    Raises:
        ValueError: if the user names logits that are not there, or a loss that cannot be used.
        Exception: if the network's own forward raises it; as ``RuntimeError`` if it could look like a user's mistake.
    """
    tried: list[_Tried] = []

    def decide() -> Outputs:
        tried.append(_try_samples(subject, heldout))
        return _verdict(subject, heldout, tried[0], loss)

    found = _agreed(heldout, decide)
    subject.outputs, subject.loss = found, None
    if heldout.targets is None or found.shape is None:
        return found
    if loss is None:
        subject.loss = inferred_loss(found)
        return found
    ignored = heldout.summary is not None and heldout.summary.ignored
    total = subject.loss = own_loss(loss, heldout.labels, ignored, subject.device, found)
    _agreed(heldout, lambda: _try_loss(subject, heldout, tried[0], loss, total))
    return found


def _agreed(heldout: HeldOut, decide: Callable[[], Outputs]) -> Outputs:
    """The first process's verdict, with this process's copy of the user's function; a failure is raised on all."""
    found: Outputs | None = None
    failure: Exception | None = None
    try:
        found = decide()
    except Exception as error:
        failure = error
    plain = None if found is None else replace(found, selector=None)
    message = None if failure is None else f"{type(failure).__name__}: {failure}"
    everyone: list[tuple[Outputs | None, str | None, bool]] = heldout.gather(
        (plain, message, isinstance(failure, ValueError))
    )
    if failure is not None:
        raise failure
    for _, said, is_mistake in everyone:
        if said is not None:
            raise (ValueError if is_mistake else RuntimeError)(f"on another process: {said}")
    first = everyone[0][0]
    if first is None or found is None:
        raise RuntimeError("the processes do not agree on whether the model could be run")
    return replace(first, selector=found.selector)


def _try_samples(subject: Subject, heldout: HeldOut) -> _Tried:
    """Run one sample, then a few; a network may accept no single sample, or only one at a time."""
    few = next(heldout.chunks(min(_TRIED, max(2, heldout.batch_size))))
    chunks = {len(chunk.index): chunk for chunk in (next(heldout.chunks(1)), few)}
    returned: dict[int, Any] = {}
    failure: Exception | None = None
    with isolated(subject.module, seed=heldout.seed, gradients=False):
        for count, chunk in chunks.items():
            try:
                returned[count] = subject.returned(chunk.inputs)
            except Exception as error:
                failure = error
    if isinstance(failure, torch.OutOfMemoryError) and not returned:
        raise failure
    if failure is not None and not returned:
        raise RuntimeError(
            f"the network failed on held-out samples ({type(failure).__name__}: {failure}); if it takes something else "
            "than the first item of a batch, give HeldOut(adapter=lambda batch: (inputs, targets)), where inputs may "
            "be a tuple or a dict of its arguments, or name a submodule that takes it, HeldOut(network=...)"
        ) from failure
    return _Tried(chunks[max(returned)], list(returned.values()), list(returned))


def _verdict(subject: Subject, heldout: HeldOut, tried: _Tried, loss: Loss | None) -> Outputs:
    first = next(iter(tree_tensors(tried.chunk.inputs)), torch.empty(0))
    runs = Runs(
        tried.returned,
        tried.counts,
        tuple(first.shape[1:]),
        lambda: _with_graph(subject, heldout, tried.chunk.inputs),
    )
    return settle_outputs(runs, heldout.summary, Stated(heldout.logits, heldout.classes, is_of_logits(loss)))


def _with_graph(subject: Subject, heldout: HeldOut, inputs: Any) -> Any:
    """The network's result with its graph, even if its parameters are frozen; None if that fails."""

    def tracked(tensor: torch.Tensor) -> torch.Tensor:
        # The copy lets the network write into its input.
        return tensor.detach().requires_grad_().clone() if tensor.is_floating_point() else tensor

    try:
        with isolated(subject.module, seed=heldout.seed, gradients=True):
            return subject.returned(tree_map(tracked, inputs))
    except torch.OutOfMemoryError:
        raise
    except Exception:  # a tensor of inference mode, a backbone that refuses: then only values can tell
        return None


def _try_loss(subject: Subject, heldout: HeldOut, tried: _Tried, loss: Loss, total: Loss) -> Outputs:
    """Compute the user's loss on the samples with a label that counts."""
    verdict = subject.outputs or Outputs()
    with isolated(subject.module, seed=heldout.seed, gradients=False), subject.precision():
        outputs = verdict.take(tried.returned[-1])
    targets = None if tried.chunk.targets is None else tried.chunk.targets.to(outputs.device)
    if targets is None or len(outputs) != len(targets):
        return verdict
    if (mine := counted_rows(targets)) is not None:
        outputs, targets = outputs[mine], targets[mine]
    if len(targets) and bool(torch.isfinite(outputs).all()):  # with NaN outputs no loss can be judged
        with isolated(subject.module, seed=heldout.seed, gradients=True):  # a loss may be a network, and draw numbers
            try_loss(loss, total, heldout.labels, outputs, targets, subject.precision, verdict)
    return verdict
