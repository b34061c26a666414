"""Forward from a layer: keep some of its filters, put a baseline in place of the others, run the rest unchanged."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import nn

from convscope._arguments import one_of
from convscope.capture.data.heldout import Chunk, HeldOut
from convscope.capture.network.collectives import collectives_so_far, shards
from convscope.capture.network.finder import Finder
from convscope.capture.network.follower import Event, follow
from convscope.capture.network.layers import select_layers
from convscope.capture.network.modules import tensors_in
from convscope.capture.network.trace import Layer
from convscope.capture.observation import Subject, trace_layers
from convscope.capture.outputs.parts import Selector
from convscope.capture.outputs.settling import settle
from convscope.capture.replay import Recorder, Replayer
from convscope.capture.state.generators import find_generators
from convscope.capture.state.isolation import isolated

Baseline = Literal["mean", "zero"]
BASELINES: tuple[Baseline, ...] = get_args(Baseline)
_FEWEST_SHARED = 3  # filter sets for which a recording pays


class Outcome(NamedTuple):
    """Result of one filter set on one chunk: ``logits`` ``(1, n, K, *)`` of the set numbered ``first``."""

    chunk: Chunk
    first: int
    logits: torch.Tensor


class Intervention:
    """A network run with filters of one layer replaced, one filter set after another.

    Each pass runs the network on the chunk as it is: no tensor is ever repeated or resized, so everything that the
    network computes from its batch stays right. Every pass begins with the same random streams and the same state.

    The operations before the layer are the same in every pass. They run once per chunk and are reused where that is
    proved on this very chunk: each operation before the layer must be the recorded one on the recorded tensors, and the
    first filter set must come out as in the full pass. Otherwise every set takes a full pass.

    Args:
        subject: The network.
        layer: A layer of it, as traced.
        fill: ``(C,)`` values that replace each filter's activation.
        seed: Seed of the random streams in each pass.
    """

    def __init__(self, subject: Subject, layer: Layer, fill: torch.Tensor, seed: int = 0) -> None:
        self._subject, self._layer, self._fill, self._seed = subject, layer, fill, seed

    def run(self, heldout: HeldOut, keep: torch.Tensor, chunk_size: int) -> Iterator[Outcome]:
        """Run the filter sets on a held-out set; every process runs the same number of passes where it matters.

        Args:
            heldout: The prepared set; this process's share of it is run.
            keep: ``(S, C)`` bool, True for the filters that each set keeps.
            chunk_size: Most samples in one pass.
        """
        for chunk in heldout.chunks(chunk_size):
            for first, logits in enumerate(self._each(chunk.inputs, keep)):
                yield Outcome(chunk, first, logits[None])

    def logits(self, inputs: Any, keep: torch.Tensor) -> torch.Tensor:
        """Outputs ``(S, n, K, *)`` of ``n`` samples under ``S`` filter sets."""
        return torch.stack(list(self._each(inputs, keep)))

    @cached_property
    def _generators(self) -> list[torch.Generator]:
        """The network's own generators, sought once: with one that appears later a replay differs and is not used."""
        return [item for item in find_generators(self._subject.module) if isinstance(item, torch.Generator)]

    def _each(self, inputs: Any, keep: torch.Tensor) -> Iterator[torch.Tensor]:
        """Outputs ``(n, K, *)`` under one filter set after another."""
        if len(keep) < _FEWEST_SHARED or shards(self._subject.module):
            yield from (self._pass(inputs, row) for row in keep)
            return
        before = collectives_so_far()  # a process must not run more passes than another where they wait for each other
        recorder = Recorder(lambda: self._generators)
        first = self._pass(inputs, keep[0], recorder)
        pays = recorder.later + len(recorder.calls) < len(recorder.calls) * len(keep)
        shared = not recorder.unusable and pays and before == collectives_so_far()
        shared = shared and _alike(self._replayed(inputs, keep[0], recorder), first)
        yield first
        for row in keep[1:]:
            found = self._replayed(inputs, row, recorder) if shared else None
            shared = found is not None
            yield self._pass(inputs, row) if found is None else found

    def _replayed(self, inputs: Any, keep: torch.Tensor, recorder: Recorder) -> torch.Tensor | None:
        """Outputs with recorded results in the place of the operations before the layer; None where that fails."""
        replayer = Replayer(recorder)
        try:
            logits = self._pass(inputs, keep, replayer)
        except torch.OutOfMemoryError:
            raise
        except Exception:
            return None  # a deviation, or an error of the second run on the same tensors: a full pass will tell
        return None if replayer.deviated else logits

    def _pass(self, inputs: Any, keep: torch.Tensor, beginning: Recorder | Replayer | None = None) -> torch.Tensor:
        fired, finder = False, Finder(self._subject.module, [self._layer])

        def on_event(event: Event) -> Any:
            nonlocal fired
            tensor = next(tensors_in(event.output), None)
            if tensor is None:
                return None
            with torch._C.DisableTorchFunction():  # this look must not be recorded as a call
                here = finder.at(event)
                finder.leave(tensor)
            if not here:
                return None
            fired = True
            # An in-place activation: the network may go on with the tensor itself rather than with its result.
            in_place = self._layer.is_unit and any(tensor is source for source in event.inputs)
            activation = tensor if beginning is None else beginning.cut(tensor, in_place)
            mixed = self._mixed(activation, keep)
            if in_place:
                tensor.copy_(mixed)
                return None
            return _with_first(event.output, mixed)

        module = self._subject.module
        with isolated(module, seed=self._seed, gradients=False), beginning or nullcontext(), follow(module, on_event):
            logits = self._subject.logits(inputs)
        if not fired:
            raise RuntimeError(f"layer {self._layer.name} did not run, so nothing was put in its place")
        return logits

    def _mixed(self, tensor: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        """The activation with the fill in the place of the filters that are not kept."""
        shape = [1] * tensor.dim()
        shape[self._layer.channel_dim] = -1
        fill = self._fill.to(tensor.device, tensor.dtype).view(shape)
        return torch.where(keep.to(tensor.device).view(shape), tensor, fill)


def _alike(found: torch.Tensor | None, expected: torch.Tensor) -> bool:
    """Return whether tensors are equal up to the order in which a kernel may sum."""
    if found is None or found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    if not expected.is_floating_point() or torch.equal(found, expected):
        return torch.equal(found, expected)
    bound = 8 * torch.finfo(expected.dtype).eps * float(expected.abs().max())
    return torch.allclose(found, expected, rtol=0, atol=bound)


def _with_first(output: Any, replacement: torch.Tensor) -> Any:
    """A module's output with its first tensor replaced: a tensor, or a tuple, list or dict of tensors."""
    if isinstance(output, torch.Tensor):
        return replacement
    if isinstance(output, Mapping):
        key = next(key for key, value in output.items() if next(tensors_in(value), None) is not None)
        changed = copy.copy(output)
        changed[key] = _with_first(output[key], replacement)  # type: ignore[index]
        return changed
    items = list(output)
    place = next(i for i, item in enumerate(items) if next(tensors_in(item), None) is not None)
    items[place] = _with_first(items[place], replacement)
    return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)


def forward_from_layer(
    model: nn.Module,
    inputs: torch.Tensor,
    layer: str,
    keep: torch.Tensor,
    baseline: Baseline = "mean",
    logits: Selector | None = None,
) -> torch.Tensor:
    r"""Outputs of a model when only some filters of one layer are kept and the others are set to a baseline.

    .. math:: f_{l+1:L}(m_S \odot a_l + (1 - m_S) \odot \bar a_l)

    The model, its gradients, buffers, modes and all random streams are left as they were.

    Args:
        model: Any model that takes one tensor.
        inputs: ``(n, …)`` on the model's device.
        layer: Name of a conv unit or module, as ``named_modules()`` has it; observed after norm and activation.
        keep: ``(C,)`` bool, True for the filters to keep; or ``(S, C)``, several such sets in one batched pass.
        baseline: Values that replace the others: ``"mean"``, each filter's mean over samples and positions of
            ``inputs``, or ``"zero"``.
        logits: The part of the model's result that is its output, as in ``HeldOut(logits=...)``; needed where it
            returns several tensors, none of which is called ``logits``.

    Returns:
        ``(n, K, *)`` outputs, or ``(S, n, K, *)``.

    Raises:
        ValueError: if the layer does not run, ``keep`` is not a mask of its filters, ``baseline`` is unknown, or
            the output cannot be found in the model's result.

    Source: reconstruction (the Hybrid CNN-Interpreter's forward propagation from a layer, arXiv 2211.00185).

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> _ = model[0].weight.data.copy_(torch.tensor([1.0, 3.0]).view(2, 1, 1, 1))
        >>> forward_from_layer(model, torch.ones(1, 1, 2, 2), "0", torch.tensor([True, False]), baseline="zero")
        tensor([[1., 0.]])
    """
    one_of("baseline", baseline, BASELINES)
    device = inputs.device
    subject = Subject(model, model, device)
    size = max(1, len(inputs))
    heldout = HeldOut((inputs,), size=size, batch_size=size, stratify=False, logits=logits)
    heldout.prepare()
    outputs = settle(subject, heldout)
    if outputs.shape is None or outputs.unclear:
        raise ValueError(f"forward_from_layer: {outputs.unclear or outputs.why_not}")
    chosen = select_layers(trace_layers(subject, heldout)[0], [layer])[0]
    if keep.dtype != torch.bool or keep.dim() not in (1, 2) or keep.shape[-1] != chosen.channels:
        raise ValueError(
            f"keep=<{keep.dtype} of shape {tuple(keep.shape)}>: give a bool mask ({chosen.channels},) or (S, "
            f"{chosen.channels}) of the filters of {layer!r}"
        )
    with isolated(model, seed=0, gradients=False):
        fill = torch.zeros(chosen.channels) if baseline == "zero" else _mean_of(subject, chosen, inputs)
        found = Intervention(subject, chosen, fill).logits(inputs, keep.view(-1, chosen.channels))
    return found[0] if keep.dim() == 1 else found


def _mean_of(subject: Subject, layer: Layer, inputs: torch.Tensor) -> torch.Tensor:
    means: list[torch.Tensor] = []

    finder = Finder(subject.module, [layer])

    def on_event(event: Event) -> None:
        tensor = next(tensors_in(event.output), None)
        if tensor is None:
            return
        here = finder.at(event)
        finder.leave(tensor)
        if here:
            activation = tensor.movedim(layer.channel_dim, 1)
            means.append(activation.transpose(0, 1).flatten(1).double().mean(1).float())

    with follow(subject.module, on_event):
        subject.logits(inputs)
    return means[0]
