"""Rehearse a forward pass on a few samples: which layers run, and whose each of their rows is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from convscope.capture.batches import tree_tensors
from convscope.capture.enliven import enlivened
from convscope.capture.follow import Event, EventKey, follow
from convscope.capture.heldout import HeldOut
from convscope.capture.identity import Sizes
from convscope.capture.isolation import isolated
from convscope.capture.modules import is_scripted, module_kind, named_modules, tensors_in
from convscope.capture.rows import Evidence, RowOrder, noise_of, signature, weigh
from convscope.capture.samples import Samples, distinct_samples
from convscope.capture.trace import OUTPUT_KEY, Trace

UNTOLD = "gives rows of which it cannot be told whose they are, since the network reorders or mixes the samples"
NOT_ALL = "does not give the same number of rows for each sample"
SOMETIMES = "runs for some inputs only"
VARIES = "changes its size with the batch or the input"
_DEPENDS = 0.02  # share of the spread between samples by which company may change a sample's rows

# Operations that leave rows where they are, as long as there are as many as before.
_IN_PLACE = {
    "linear", "dropout", "add", "sub", "__rsub", "mul", "div", "__rdiv", "pad", "bernoulli",
    "interpolate", "flatten", "view", "reshape",
    "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "dropout1d", "dropout2d", "dropout3d", "mean", "sum",
    *(f"{kind}_pool{d}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max", "lp") for d in (1, 2, 3)),
}  # fmt: skip


# Noise belongs to no sample.
_NOISE = {
    "rand", "rand_like", "randn", "randn_like", "randint", "randint_like", "normal", "uniform", "exponential", "empty",
    "empty_like", "new_empty", "poisson",
}  # fmt: skip


class Rows(NamedTuple):
    """What one operation gave in one pass."""

    shape: torch.Size
    signature: torch.Tensor
    precision: float


Seen = dict[EventKey, Rows]


def _orders(samples: int) -> tuple[tuple[int, ...], ...]:
    """A swap and a cycle: only what is right for both is right for every order of the samples."""
    first, *others = range(samples)
    return (others[0], first, *others[1:]), (*others, first)


class _Network(NamedTuple):
    module: nn.Module
    run: Callable[[Any], torch.Tensor]
    seed: int


def rehearse(
    module: nn.Module, run: Callable[[Any], torch.Tensor], heldout: HeldOut, samples: Samples | None = None
) -> tuple[Trace, torch.Tensor]:
    """Trace the first held-out sample, and find out from it and two others how rows belong to samples.

    A network that refuses one sample is traced on two, or four. Every process must call it; all run the same samples,
    so that all come to the same end.

    Args:
        module: The network.
        run: ``inputs -> logits``.
        heldout: The prepared held-out set.
        samples: What to run in the place of the set's own.

    Returns:
        The trace, and the logits of one sample.

    Raises:
        Exception: Whatever the network raises for any number of samples.
    """
    network, most = _Network(module, run, heldout.seed), min(heldout.batch_size, heldout.total)
    with torch.inference_mode(False), torch.no_grad():  # no tensor of an outer inference mode reaches the network
        few = distinct_samples(heldout) if samples is None else samples
        found, logits, seen = _first(network, few, most)
        found.notes += [*_in_torchscript(module), *_transformed(found)]
        if most > 1:
            _Rehearsal(network, few, most, found, seen).tell()
    order = found.rows.get(OUTPUT_KEY)
    if found.samples > 1 and order is not None:
        logits = order.fold(logits)[0]
    return found, logits


def _first(network: _Network, few: Samples, most: int) -> tuple[Trace, torch.Tensor, Seen]:
    sizes = dict.fromkeys(size for size in (1, 2, 4, most) if size <= most)
    failure: Exception | None = None
    for size in sizes:
        try:
            return _traced(network, few.batch(range(size)), size)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            failure = failure or error
    raise failure or AssertionError("no size was tried")


def _traced(network: _Network, inputs: Any, samples: int) -> tuple[Trace, torch.Tensor, Seen]:
    found, seen = Trace(network.module, samples), _Watch()

    def on_event(event: Event) -> None:
        found(event)
        seen(event)  # at once, since the network may write into the tensor later

    with isolated(network.module, seed=network.seed, gradients=False), follow(network.module, on_event) as calls:
        logits = network.run(inputs)
    found.calls, found.input_sizes = calls, sizes_of(inputs)
    return found, logits, seen.with_output(logits)


def sizes_of(inputs: Any) -> Sizes:
    """Sizes of each of a batch's tensors, without the batch axis."""
    return tuple(tuple(tensor.shape[1:]) for tensor in tree_tensors(inputs))


def _rows(tensor: torch.Tensor) -> Rows | None:
    if tensor.dim() == 0 or tensor.layout != torch.strided or tensor.is_quantized:
        return None
    precision = torch.finfo(tensor.dtype).eps if tensor.is_floating_point() or tensor.is_complex() else 0.0
    return Rows(tensor.shape, signature(tensor), max(precision, torch.finfo(torch.float32).eps))


class _Watch:
    """Takes down what every operation of a pass gives; ``alive`` brings dead layers to life before."""

    def __init__(self, alive: bool = False) -> None:
        self._alive, self._seen = alive, Seen()

    def __call__(self, event: Event) -> torch.Tensor | None:
        replaced = enlivened(event) if self._alive else None
        tensor = next(tensors_in(event.output), None) if replaced is None else replaced
        if tensor is not None and (rows := _rows(tensor)):
            self._seen[event.key] = rows
        return replaced

    def with_output(self, logits: torch.Tensor) -> Seen:
        """Everything, the model's output too."""
        if rows := _rows(logits):
            self._seen[OUTPUT_KEY] = rows
        return self._seen


class _Rehearsal:
    """Runs the same samples in several orders and settles the row order of every operation of a trace."""

    def __init__(self, network: _Network, few: Samples, most: int, found: Trace, alone: Seen) -> None:
        self._network, self._few, self._most, self._found, self._alone = network, few, most, found, alone
        self._orders = _orders(3)
        self._again: Seen | None = None

    def tell(self) -> None:
        """Fill the trace's ``rows`` and ``problems``."""
        together, moved = self._passes()
        evidence = self._weighed(together, moved)
        self._inherit(evidence)
        if any(evidence[key].verdict == "silent" for key in self._candidates() if key in evidence):
            self._enliven(evidence)
            self._inherit(evidence)
        if any(evidence[key].verdict == "mixed" for key in self._candidates() if key in evidence):
            self._inherit_random(evidence, together)
        self._settle(evidence)
        self._note_company(together)

    def _passes(self) -> tuple[Seen, list[Seen]]:
        failure: Exception | None = None
        for size in dict.fromkeys(size for size in (3, 4, 2, self._most) if size <= max(3, self._most)):
            try:
                self._orders = _orders(size)
                return self._run(range(size)), [self._run(order) for order in self._orders]
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                failure = failure or error
        raise failure or AssertionError("no size was tried")

    def _run(self, order: Iterable[int], alive: bool = False, seed: int = 0) -> Seen:
        inputs, module, seen = self._few.batch(order), self._network.module, _Watch(alive)
        with isolated(module, seed=self._network.seed + seed, gradients=False), follow(module, seen):
            logits = self._network.run(inputs)
        return seen.with_output(logits)

    def _weighed(self, together: Seen, moved: list[Seen]) -> dict[EventKey, Evidence]:
        weighed: dict[EventKey, Evidence] = {}
        for key, alone in self._alone.items():
            problem = self._uneven(alone, [together.get(key), *(seen.get(key) for seen in moved)])
            if problem:
                self._found.problems[key] = problem
                continue
            others = [(order, seen[key].signature) for order, seen in zip(self._orders, moved, strict=True)]
            repeats = len(alone.signature) // self._found.samples
            weighed[key] = weigh(together[key].signature, others, repeats, alone.precision)
        return weighed

    def _uneven(self, alone: Rows, others: Sequence[Rows | None]) -> str | None:
        """Why an operation is not of each sample alike."""
        if any(rows is None for rows in others):
            return SOMETIMES
        if any(rows is not None and rows.shape[1:] != alone.shape[1:] for rows in others):
            return VARIES
        samples, repeats = len(self._orders[0]), len(alone.signature) // self._found.samples
        even = repeats > 0 and len(alone.signature) == repeats * self._found.samples
        told = all(rows is not None and len(rows.signature) == repeats * samples for rows in others)
        return None if even and told else NOT_ALL

    def _candidates(self) -> list[EventKey]:
        """What may be observed: the operations of units and every module."""
        steps = [step.key for step in self._found.steps if step.kind != "other" or step.module is not None]
        return [*steps, *(step.key for step in self._found.containers), OUTPUT_KEY]

    def _inherit(self, evidence: dict[EventKey, Evidence], verdict: str = "silent") -> None:
        """Rows that do not tell are in the order of those that they were made from, where rows were not moved."""
        steps, noise = self._found.steps, set[int]()
        for place, step in enumerate(steps):
            if step.key.operation in _NOISE or (step.sources and noise.issuperset(step.sources)):
                noise.add(place)
            if evidence.get(step.key, Evidence("told")).verdict != verdict:
                continue
            if step.kind == "other" and step.key.operation not in _IN_PLACE:
                continue
            sources = [steps[i] for i in set(step.sources) - noise]
            alike = [source.key for source in sources if source.output.shape[:1] == step.output.shape[:1]]
            known = [evidence.get(key, Evidence("mixed")) for key in alike]
            if known and known[0].order is not None and all(source.order == known[0].order for source in known):
                evidence[step.key] = known[0]
        for step in self._found.containers:
            source = self._found.producer.get(id(step.output))
            if source is not None and evidence.get(step.key, Evidence("told")).verdict == verdict:
                evidence[step.key] = evidence.get(steps[source].key, Evidence("mixed"))

    def _enliven(self, evidence: dict[EventKey, Evidence]) -> None:
        """Ask again where rows are equal, as in a dead layer: with something of each row's own in every layer."""
        try:
            together, *moved = [self._run(order, alive=True) for order in (range(len(self._orders[0])), *self._orders)]
        except torch.OutOfMemoryError:
            raise
        except Exception:
            return  # some network cannot take such values: what is not told stays so
        for key in [key for key, found in evidence.items() if found.verdict == "silent"]:
            alone = self._alone[key]
            if self._uneven(alone, [together.get(key), *(seen.get(key) for seen in moved)]) is None:
                others = [(order, seen[key].signature) for order, seen in zip(self._orders, moved, strict=True)]
                repeats = len(alone.signature) // self._found.samples
                evidence[key] = weigh(together[key].signature, others, repeats, alone.precision)

    def _inherit_random(self, evidence: dict[EventKey, Evidence], together: Seen) -> None:
        """What draws at random at each check (dropout that stays on) cannot be compared, but seldom moves a row."""
        again = self._run_again()
        for key in [key for key, found in evidence.items() if found.verdict == "mixed"]:
            if key in again and _differ(again[key], together[key]):
                evidence[key] = Evidence("random")
        self._inherit(evidence, "random")

    def _run_again(self) -> Seen:
        if self._again is None:
            self._again = self._run(range(len(self._orders[0])), seed=1)
        return self._again

    def _settle(self, evidence: dict[EventKey, Evidence]) -> None:
        for key, found in evidence.items():
            repeats = len(self._alone[key].signature) // self._found.samples
            if found.verdict == "silent" and repeats == 1:
                self._found.rows[key] = RowOrder()  # nothing was folded, and nothing speaks against it
            elif found.order is None:
                self._found.problems[key] = UNTOLD
            else:
                self._found.rows[key] = found.order

    def _note_company(self, together: Seen) -> None:
        """Say it where a sample's numbers depend on which others are in its batch."""
        if self._found.samples > 1:
            return
        for step in sorted((*self._found.steps, *self._found.containers), key=lambda step: step.order):
            order = self._found.rows.get(step.key)
            if (step.module is None and step.kind == "other") or order is None:
                continue
            if self._depends(order, self._alone[step.key], together[step.key]) and not _differ(
                self._run_again()[step.key], together[step.key]
            ):
                self._found.notes.append(
                    f"{step.key.owner or step.key.operation} gives a sample other values in other company, as "
                    "BatchNorm without running statistics does: numbers from there on depend on "
                    "HeldOut(batch_size=...) and on the number of processes; keep both as they are when you compare"
                )
                return

    def _depends(self, order: RowOrder, alone: Rows, together: Rows) -> bool:
        mine, other = (order.fold(together.signature)[i] for i in (0, 1))
        apart = float((mine - alone.signature).double().square().mean().sqrt())
        spread = float((mine - other).double().square().mean().sqrt())
        return apart > _DEPENDS * spread + noise_of(alone.signature, alone.precision)


def _differ(one: Rows, other: Rows) -> bool:
    if one.shape != other.shape:
        return True
    return float((one.signature - other.signature).abs().max()) > noise_of(one.signature, one.precision)


def _transformed(found: Trace) -> list[str]:
    """A sentence on convolutions that are nowhere seen, since they run inside a transform."""
    seen = {step.key.owner for step in found.steps}
    names = [name for name, part in found.calls.transformed.items() if module_kind(part) == "conv" and name not in seen]
    if not names:
        return []
    return [f"{', '.join(names)} run inside torch.vmap or the like, where no rows are seen; they are not observed"]


def _in_torchscript(module: nn.Module) -> list[str]:
    """A sentence on modules that cannot be followed."""
    scripted = [name or "the network" for name, part in named_modules(module) if is_scripted(part)]
    outer = [name for name in scripted if not any(name.startswith(f"{other}.") for other in scripted)]
    if not outer:
        return []
    return [f"{', '.join(outer)} run in TorchScript, which hides what is inside; layers there are not observed"]
