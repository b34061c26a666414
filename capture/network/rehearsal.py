"""Rehearsal of a forward pass on a few samples: the layers that run, and the sample of each row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from convscope.capture.data.batches import tree_tensors
from convscope.capture.data.heldout import HeldOut
from convscope.capture.network.follower import Event, follow
from convscope.capture.network.identity import Sizes
from convscope.capture.network.modules import is_scripted, module_kind, named_modules
from convscope.capture.network.ownership import Ownership
from convscope.capture.network.passes import Network, PassWatch, Seen
from convscope.capture.network.rows import noise_of
from convscope.capture.network.samples import Samples, distinct_samples
from convscope.capture.network.trace import OUTPUT_KEY, Trace
from convscope.capture.state.isolation import isolated


def rehearse(
    module: nn.Module, run: Callable[[Any], torch.Tensor], heldout: HeldOut, samples: Samples | None = None
) -> tuple[Trace, torch.Tensor]:
    """Trace the first held-out sample, and determine from it and two others how rows belong to samples.

    A network that refuses one sample is traced on two, or four. Every process must call it; all run the same samples,
    so that all have the same result.

    Args:
        module: The network.
        run: ``inputs -> logits``.
        heldout: The prepared held-out set.
        samples: Samples to run instead of the set's own.

    Returns:
        The trace, and the logits of one sample.

    Raises:
        Exception: if the network raises it for every number of samples.
    """
    network, most = Network(module, run, heldout.seed), min(heldout.batch_size, heldout.total)
    with torch.inference_mode(False), torch.no_grad():  # no tensor of an outer inference mode reaches the network
        few = distinct_samples(heldout) if samples is None else samples
        found, logits, seen = _first(network, few, most)
        unseen = [*_in_torchscript(module), *_transformed(found)]
        found.notes += unseen
        found.hidden = bool(unseen)
        if most > 1:
            Ownership(network, few, most, found, seen).tell()
        else:  # all rows of a pass are its one sample's, unless the network adds some
            found.notes += _rows_of_its_own(seen, [network.seen(few, [number]) for number in (1, 2)])
    order = found.rows.get(OUTPUT_KEY)
    if found.samples > 1 and order is not None:
        # The trace took several samples at once: keep the rows of the first, as a trace of one sample would give.
        logits = order.fold(logits)[0]
    return found, logits


def _first(network: Network, few: Samples, most: int) -> tuple[Trace, torch.Tensor, Seen]:
    # One sample first, since all rows are then that sample's; 2 and 4 for networks that need even batches; the user's
    # own batch size last, at which it is known to run.
    sizes = dict.fromkeys(size for size in (1, 2, 4, most) if size <= most)
    failure: Exception | None = None
    for size in sizes:
        try:
            return _traced(network, few.batch(range(size)), size)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            # The first failure is reported: its input is the plainest, later failures may come from the batch size.
            failure = failure or error
    raise failure or AssertionError("no size was tried")


def _traced(network: Network, inputs: Any, samples: int) -> tuple[Trace, torch.Tensor, Seen]:
    found, seen = Trace(network.module, samples), PassWatch()

    def on_event(event: Event) -> None:
        found(event)
        seen(event)  # at once, since the network may write into the tensor later

    with isolated(network.module, seed=network.seed, gradients=False), follow(network.module, on_event) as calls:
        logits = network.run(inputs)
    found.calls, found.input_sizes = calls, sizes_of(inputs)
    return found, logits, seen.with_output(logits)


def sizes_of(inputs: Any) -> Sizes:
    """Sizes of a batch's tensors, without the batch axis."""
    return tuple(tuple(tensor.shape[1:]) for tensor in tree_tensors(inputs))


def _transformed(found: Trace) -> list[str]:
    """A sentence about convolutions that cannot be seen, since they run inside a transform."""
    seen = {step.key.owner for step in found.steps}
    names = [name for name, part in found.calls.transformed.items() if module_kind(part) == "conv" and name not in seen]
    if not names:
        return []
    return [f"{', '.join(names)} run inside torch.vmap or the like, where rows cannot be seen; they are not observed"]


def _rows_of_its_own(alone: Seen, others: list[Seen]) -> list[str]:
    """A sentence about rows that no sample changes beside rows that samples change: memory rows, a prompt image."""
    for key, rows in alone.items():
        again = [other[key] for other in others if key in other and other[key].shape == rows.shape]
        change = [(found.signature - rows.signature).abs().amax(1) for found in again if rows.signature.numel()]
        if not change or len(rows.signature) == 1:
            continue
        still = torch.stack(change).amax(0) <= noise_of(rows.signature, rows.precision)
        if still.any() and not still.all():
            where = key.owner or key.operation
            return [
                f"{where} gives {int(still.sum())} of {len(still)} rows alike for every sample; if they are rows of "
                "the network's own, metrics from there on count them as the sample's: name layers before that"
            ]
    return []


def _in_torchscript(module: nn.Module) -> list[str]:
    """A sentence about modules that cannot be followed."""
    scripted = [name or "the network" for name, part in named_modules(module) if is_scripted(part)]
    outer = [name for name in scripted if not any(name.startswith(f"{other}.") for other in scripted)]
    if not outer:
        return []
    return [f"{', '.join(outer)} run in TorchScript, which hides what is inside; layers there are not observed"]
