"""Forward from a layer: keep some of its filters, put a baseline in the place of the others, run the rest as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from convscope.capture.batches import batch_length, tree_map, tree_tensors
from convscope.capture.follow import Event, follow
from convscope.capture.heldout import Chunk, HeldOut
from convscope.capture.isolation import isolated
from convscope.capture.layers import select_layers
from convscope.capture.modules import tensors_in
from convscope.capture.observation import Subject, trace_layers
from convscope.capture.parts import Selector
from convscope.capture.settle import settle
from convscope.capture.trace import Layer

Baseline = Literal["mean", "zero"]
SETS_AT_ONCE = 8
_PROBED = 3  # samples on which a shared beginning is tried


class Outcome(NamedTuple):
    """What came of some filter sets on one chunk: ``logits`` ``(S, n, K, *)`` of the sets numbered ``sets``."""

    chunk: Chunk
    sets: slice
    logits: torch.Tensor


class Intervention:
    """Runs a network with filters of one layer replaced.

    Several filter sets go through the network side by side, as one larger batch. Where it can be done, what comes
    before the layer is run only once for all of them: tensors from before it are repeated where they meet tensors
    from after it, at a skip connection for instance. Whether that gives what separate passes give is tried on a few
    samples first; if not, the inputs are repeated, which is right for any network.

    Args:
        subject: The network.
        layer: A layer of it, as traced.
        fill: ``(C,)`` what takes the place of a filter's activation.
    """

    def __init__(self, subject: Subject, layer: Layer, fill: torch.Tensor) -> None:
        self._subject, self._layer, self._fill = subject, layer, fill.to(subject.device)
        self._shares: bool | None = None

    def run(self, heldout: HeldOut, keep: torch.Tensor, chunk_size: int) -> Iterator[Outcome]:
        """Run the filter sets on a held-out set; every process runs the same number of passes.

        Args:
            heldout: The prepared set; this process's share of it is run.
            keep: ``(S, C)`` bool, True for the filters that each set keeps.
            chunk_size: Most samples in one pass, filter sets counted apart.
        """
        with isolated(self._subject.module, seed=heldout.seed, gradients=False):
            for first in range(0, len(keep), SETS_AT_ONCE):
                sets = slice(first, min(first + SETS_AT_ONCE, len(keep)))
                for chunk in heldout.chunks(max(1, chunk_size // (sets.stop - sets.start))):
                    yield Outcome(chunk, sets, self.logits(chunk.inputs, keep[sets]))

    def logits(self, inputs: Any, keep: torch.Tensor) -> torch.Tensor:
        """Outputs ``(S, n, K, *)`` of ``n`` samples under ``S`` filter sets; to be called inside ``isolated``."""
        if self._shares is None:
            self._shares = self._can_share(inputs)
        run = self._with_shared_beginning if self._shares else self._with_repeated_inputs
        return run(inputs, keep)

    def _can_share(self, inputs: Any) -> bool:
        """Whether two very different sets come out as in separate passes, on few samples."""
        few = tree_map(lambda t: t[:_PROBED], inputs)
        keep = torch.ones(2, self._layer.channels, dtype=torch.bool)
        keep[1] = False
        expected = self._with_repeated_inputs(few, keep)
        try:
            found = self._with_shared_beginning(few, keep)
        except Exception:
            return False  # some operation would not take the larger batch: repeating the inputs needs none to
        apart = (found - expected).abs().max() if found.shape == expected.shape else torch.tensor(torch.inf)
        return bool(apart <= 1e-2 * expected.abs().max())

    def _with_repeated_inputs(self, inputs: Any, keep: torch.Tensor) -> torch.Tensor:
        repeated = tree_map(lambda t: t.repeat(len(keep), *[1] * (t.dim() - 1)), inputs)

        def replace(tensor: torch.Tensor) -> torch.Tensor:
            return self._mixed(_by_set(tensor, keep), keep).flatten(0, 1)

        return _by_set(self._run(repeated, replace, may_write=True), keep)

    def _with_shared_beginning(self, inputs: Any, keep: torch.Tensor) -> torch.Tensor:
        widen = _Widen(self._subject.module, batch_length(inputs), len(keep))

        def replace(tensor: torch.Tensor) -> torch.Tensor:
            widen.active = True
            return self._mixed(tensor.unsqueeze(0), keep).flatten(0, 1)

        with widen:
            return _by_set(self._run(inputs, replace, may_write=False), keep)

    def _mixed(self, tensor: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        """``(S, n, …)`` from ``(S or 1, n, …)``: the filters that each set keeps, and the fill."""
        shape = [1] * tensor.dim()
        shape[self._layer.channel_dim + 1] = -1
        fill = self._fill.to(tensor.dtype).view(shape)
        shape[0] = len(keep)
        return torch.where(keep.to(tensor.device).view(shape), tensor, fill)

    def _run(self, inputs: Any, replace: Callable[[torch.Tensor], torch.Tensor], may_write: bool) -> torch.Tensor:
        fired = False

        def on_event(event: Event) -> torch.Tensor | None:
            nonlocal fired
            if event.key != self._layer.key:
                return None
            fired = True
            tensor = next(tensors_in(event.output))
            if tensor is not event.output:
                raise ValueError(f"layer {self._layer.name} returns no plain tensor: nothing can be put in its place")
            replacement = replace(tensor)
            if may_write and self._layer.is_unit and any(tensor is source for source in event.inputs):
                # An in-place activation: the network may go on with the tensor itself rather than with its result.
                tensor.copy_(replacement)
                return None
            return replacement

        with follow(self._subject.module, on_event):
            logits = self._subject.logits(inputs)
        if not fired:
            raise RuntimeError(f"layer {self._layer.name} did not run, so nothing was put in its place")
        return logits


def _by_set(tensor: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """``(S, n, …)`` from ``(S · n, …)``."""
    return tensor.reshape(len(keep), -1, *tensor.shape[1:])


class _Widen(TorchFunctionMode):
    """Repeats tensors of ``samples`` rows wherever they meet tensors of ``samples · sets`` rows."""

    def __init__(self, model: nn.Module, samples: int, sets: int) -> None:
        super().__init__()
        self._samples, self._sets = samples, sets
        self._fixed = {id(t) for t in (*model.parameters(), *model.buffers())}
        self.active = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.active and any(self._rows(t) == self._samples * self._sets for t in tree_tensors((args, kwargs))):
            args, kwargs = tree_map(self._widened, (args, kwargs))
        return func(*args, **kwargs)

    def _widened(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._rows(tensor) != self._samples:
            return tensor
        return tensor.repeat(self._sets, *[1] * (tensor.dim() - 1))

    def _rows(self, tensor: torch.Tensor) -> int:
        return len(tensor) if tensor.dim() > 0 and id(tensor) not in self._fixed else 0


def forward_from_layer(
    model: nn.Module,
    inputs: torch.Tensor,
    layer: str,
    keep: torch.Tensor,
    baseline: Baseline = "mean",
    logits: Selector | None = None,
) -> torch.Tensor:
    r"""What a model outputs when only some filters of a layer reach the rest of it.

    .. math:: f_{l+1:L}(m_S \odot a_l + (1 - m_S) \odot \bar a_l)

    The model, its gradients, buffers, modes and all random streams are left as they were.

    Args:
        model: Any model that takes one tensor.
        inputs: ``(n, …)`` on the model's device.
        layer: Name of a conv unit or module, as ``named_modules()`` has it; observed after norm and activation.
        keep: ``(C,)`` bool, True for the filters to keep; or ``(S, C)``, several such sets in one batched pass.
        baseline: What takes the place of the others: ``"mean"``, each filter's mean over samples and positions of
            ``inputs``, or ``"zero"``.
        logits: Which part of what the model returns is its output, as in ``HeldOut(logits=...)``; needed where it
            returns several tensors, none of which is called ``logits``.

    Returns:
        ``(n, K, *)`` outputs, or ``(S, n, K, *)``.

    Raises:
        ValueError: The layer does not run, ``keep`` is no mask of its filters, ``baseline`` is unknown, or
            it cannot be told which part of what the model returns is its output.

    Source: reconstruction (the Hybrid CNN-Interpreter's forward propagation from a layer, arXiv 2211.00185).

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> _ = model[0].weight.data.copy_(torch.tensor([1.0, 3.0]).view(2, 1, 1, 1))
        >>> forward_from_layer(model, torch.ones(1, 1, 2, 2), "0", torch.tensor([True, False]), baseline="zero")
        tensor([[1., 0.]])
    """
    check_baseline(baseline)
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
            f"keep must be a bool mask ({chosen.channels},) or (S, {chosen.channels}) of the filters of {layer!r}, got "
            f"{keep.dtype} of shape {tuple(keep.shape)}"
        )
    with isolated(model, seed=0, gradients=False):
        fill = torch.zeros(chosen.channels) if baseline == "zero" else _mean_of(subject, chosen, inputs)
        found = Intervention(subject, chosen, fill).logits(inputs, keep.view(-1, chosen.channels))
    return found[0] if keep.dim() == 1 else found


def check_baseline(baseline: str) -> None:
    """Only the two baselines that are known."""
    if baseline not in ("mean", "zero"):
        raise ValueError(f"baseline={baseline!r}: give 'mean' or 'zero'")


def _mean_of(subject: Subject, layer: Layer, inputs: torch.Tensor) -> torch.Tensor:
    means: list[torch.Tensor] = []

    def on_event(event: Event) -> None:
        if event.key == layer.key:
            activation = next(tensors_in(event.output)).movedim(layer.channel_dim, 1)
            means.append(activation.transpose(0, 1).flatten(1).double().mean(1).float())

    with follow(subject.module, on_event):
        subject.logits(inputs)
    return means[0]
