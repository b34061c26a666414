"""Assignment of rows to samples for every operation of a trace: the same samples are run in several orders."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from convscope.capture.network.follower import EventKey
from convscope.capture.network.passes import Network, Rows, Seen, differ
from convscope.capture.network.rows import RowEvidence, RowOrder, noise_of, weigh
from convscope.capture.network.samples import Samples
from convscope.capture.network.trace import OUTPUT_KEY, Trace

UNTOLD = (
    "gives rows whose samples cannot be determined, since the network reorders or mixes the samples "
    "(with HeldOut(batch_size=1) it can)"
)
NOT_ALL = (
    "does not give the same number of rows for each sample "
    "(with HeldOut(batch_size=1) it may, as where the network goes through its batch in parts)"
)
SOMETIMES = "runs for some inputs only"
VARIES = "changes its size with the batch or the input"
_DEPENDS = 0.02  # share of the spread between samples by which the rest of the batch may change a sample's rows

# Operations that leave rows where they are, if their number stays the same.
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


def _orders(samples: int) -> tuple[tuple[int, ...], ...]:
    """A swap and a cycle: an assignment that is right for both is right for every order of the samples."""
    first, *others = range(samples)
    return (others[0], first, *others[1:]), (*others, first)


class Ownership:
    """Row order of every operation of a trace, determined by running the same samples in several orders."""

    def __init__(self, network: Network, few: Samples, most: int, found: Trace, alone: Seen) -> None:
        self._network, self._few, self._most, self._found, self._alone = network, few, most, found, alone
        self._orders = _orders(3)
        self._again: Seen | None = None

    def tell(self) -> None:
        """Fill the trace's ``rows`` and ``problems``."""
        together, moved = self._passes()
        evidence = self._weighed(together, moved)
        self._inherit(evidence)
        # A second round of passes, with a signal in dead layers, is run only where rows gave no evidence.
        if any(evidence[key].verdict == "silent" for key in self._candidates() if key in evidence):
            self._enliven(evidence)
            self._inherit(evidence)
        if any(evidence[key].verdict == "mixed" for key in self._candidates() if key in evidence):
            self._inherit_random(evidence, together)
        self._settle(evidence)
        for key in self._candidates():
            if key not in self._alone:  # a sparse or nested tensor, whose rows cannot be compared
                self._found.problems[key] = UNTOLD
        self._note_company(together)

    def _passes(self) -> tuple[Seen, list[Seen]]:
        failure: Exception | None = None
        for size in dict.fromkeys(size for size in (3, 4, 2, self._most) if size <= max(3, self._most)):
            try:
                self._orders = _orders(size)
                return self._seen(range(size)), [self._seen(order) for order in self._orders]
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                failure = failure or error
        raise failure or AssertionError("no size was tried")

    def _seen(self, order: Iterable[int], alive: bool = False, seed: int = 0) -> Seen:
        return self._network.seen(self._few, order, alive, seed)

    def _weighed(self, together: Seen, moved: list[Seen]) -> dict[EventKey, RowEvidence]:
        weighed: dict[EventKey, RowEvidence] = {}
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
        """Reason why an operation does not treat all samples alike, None if it does."""
        if any(rows is None for rows in others):
            return SOMETIMES
        if any(rows is not None and rows.shape[1:] != alone.shape[1:] for rows in others):
            return VARIES
        samples, repeats = len(self._orders[0]), len(alone.signature) // self._found.samples
        even = repeats > 0 and len(alone.signature) == repeats * self._found.samples
        told = all(rows is not None and len(rows.signature) == repeats * samples for rows in others)
        return None if even and told else NOT_ALL

    def _candidates(self) -> list[EventKey]:
        """Operations that may be observed: those of units and every module."""
        steps = [step.key for step in self._found.steps if step.kind != "other" or step.module is not None]
        return [*steps, *(step.key for step in self._found.containers), OUTPUT_KEY]

    def _inherit(self, evidence: dict[EventKey, RowEvidence], verdict: str = "silent") -> None:
        """Give rows without evidence the order of those they were computed from, if rows were not moved."""
        steps, noise = self._found.steps, set[int]()
        for place, step in enumerate(steps):
            if step.key.operation in _NOISE or (step.sources and noise.issuperset(step.sources)):
                noise.add(place)
            if evidence.get(step.key, RowEvidence("told")).verdict != verdict:
                continue
            # Any other operation may reorder rows, and nothing here would show it.
            if step.kind == "other" and step.key.operation not in _IN_PLACE:
                continue
            sources = [steps[i] for i in set(step.sources) - noise]
            alike = [source.key for source in sources if source.output.shape[:1] == step.output.shape[:1]]
            known = [evidence.get(key, RowEvidence("mixed")) for key in alike]
            if known and known[0].order is not None and all(source.order == known[0].order for source in known):
                evidence[step.key] = known[0]
        for step in self._found.containers:
            source = self._found.producer.get(id(step.output))
            if source is not None and evidence.get(step.key, RowEvidence("told")).verdict == verdict:
                evidence[step.key] = evidence.get(steps[source].key, RowEvidence("mixed"))

    def _enliven(self, evidence: dict[EventKey, RowEvidence]) -> None:
        """Try again where rows are equal, as in a dead layer: with a signal of each row added in every layer."""
        try:
            together, *moved = [self._seen(order, alive=True) for order in (range(len(self._orders[0])), *self._orders)]
        except torch.OutOfMemoryError:
            raise
        except Exception:
            return  # some networks cannot take such values: rows without evidence stay so
        for key in [key for key, found in evidence.items() if found.verdict == "silent"]:
            alone = self._alone[key]
            if self._uneven(alone, [together.get(key), *(seen.get(key) for seen in moved)]) is None:
                others = [(order, seen[key].signature) for order, seen in zip(self._orders, moved, strict=True)]
                repeats = len(alone.signature) // self._found.samples
                evidence[key] = weigh(together[key].signature, others, repeats, alone.precision)

    def _inherit_random(self, evidence: dict[EventKey, RowEvidence], together: Seen) -> None:
        """Give random operations the order of their input: they cannot be compared, but rarely move a row."""
        for key in [key for key, found in evidence.items() if found.verdict == "mixed"]:
            if self._draws(key, together):
                evidence[key] = RowEvidence("random")
        self._inherit(evidence, "random")

    def _draws(self, key: EventKey, together: Seen) -> bool:
        """Return whether another seed changes the result of an operation."""
        if self._again is None:
            self._again = self._seen(range(len(self._orders[0])), seed=1)
        return key not in self._again or differ(self._again[key], together[key])

    def _settle(self, evidence: dict[EventKey, RowEvidence]) -> None:
        for key, found in evidence.items():
            repeats = len(self._alone[key].signature) // self._found.samples
            if found.verdict == "silent" and repeats == 1:
                self._found.rows[key] = RowOrder()  # nothing was folded, and nothing contradicts that
            elif found.order is None:
                self._found.problems[key] = UNTOLD
            else:
                self._found.rows[key] = found.order

    def _note_company(self, together: Seen) -> None:
        """Record the layers in which a sample's numbers depend on the others in its batch."""
        for step in sorted((*self._found.steps, *self._found.containers), key=lambda step: step.order):
            order = self._found.rows.get(step.key)
            if (step.module is None and step.kind == "other") or order is None:
                continue
            if self._depends(order, self._alone[step.key], together[step.key]) and not self._draws(step.key, together):
                self._found.notes.append(
                    f"{step.key.owner or step.key.operation} gives a sample other values in another batch, as "
                    "BatchNorm without running statistics does: numbers from there on depend on "
                    "HeldOut(batch_size=...) and on the number of processes; keep both the same when you compare"
                )
                return

    def _depends(self, order: RowOrder, alone: Rows, together: Rows) -> bool:
        rows = order.fold(together.signature)
        few = order.fold(alone.signature)
        # The difference between a sample alone and in a batch, compared with that between two samples: rounding and
        # the choice of kernels stay far below it.
        both = min(len(few), len(rows))  # a network that needs many samples may have been traced on more of them
        apart = float((rows[:both] - few[:both]).double().square().mean().sqrt())
        spread = float((rows[0] - rows[1]).double().square().mean().sqrt())
        return apart > _DEPENDS * spread + noise_of(alone.signature, alone.precision)
