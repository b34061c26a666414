"""The held-out set: a fixed sample of the validation data on which every check is made."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from convscope.capture.batches import Adapter, adapt_batch, batch_length, tree_cat, tree_map, tree_tensors
from convscope.capture.isolation import preserved_random_state
from convscope.capture.parts import Selector
from convscope.capture.reading import Adapted, read_all, read_selected
from convscope.capture.sampling import random_order
from convscope.capture.settings import check_classes, check_ignore_index, check_logits, pair
from convscope.capture.targets import LabelForm, TargetSummary, merge_summaries, summarise_targets

Gather = Callable[[Any], list[Any]]


def _alone(value: Any) -> list[Any]:
    return [value]


def _as_it_is(batch: Any) -> Any:
    return batch


@dataclass(frozen=True)
class Chunk:
    """Some held-out samples: ``inputs`` and ``targets`` (None where there are none) with ``(n, ...)`` tensors.

    Integer targets are int64, and ignored labels -100, whatever they were in the user's data.
    ``index`` ``(n,)`` is each sample's number in the whole held-out set. A ``padding`` chunk repeats a sample,
    so that every process runs the same number of forward passes; nothing is to be counted from it.
    """

    inputs: Any
    targets: torch.Tensor | None
    index: torch.Tensor
    padding: bool = False


class HeldOut:
    """A held-out set, read once and kept in memory on the CPU, the same for the whole run and after a resume.

    Args:
        source: Where samples come from: a ``Dataset``, a ``DataLoader``, a tuple of tensors ``(inputs, targets)``,
            a DataModule with ``heldout_dataloader()``, or any iterable of batches. Default: the trainer's first
            validation loader. A validation loader that can be read only once (an ``IterableDataset``) is not
            consumed: its batches are copied as they flow by in the first validation.
        size: Number of samples, over all processes. Fewer where the source has fewer.
        batch_size: Samples a forward pass.
        stratify: Keep each class's share, where targets are class indices. Otherwise the choice is random.
        seed: Fixes the choice of samples, and all randomness in reading them (augmentation).
        adapter: ``adapter(batch) -> (inputs, targets)`` for batches that are not understood by themselves
            (tuples, lists, dicts, named tuples and dataclasses are). ``inputs`` may be a tensor, a tuple
            (``model(*inputs)``) or a dict (``model(**inputs)``).
        network: Name of the submodule to run on these inputs, ``"discriminator"``; by default the model itself, or,
            where it has no ``forward``, its only submodule.
        logits: Which part of what the model returns are its logits: a name (``"logits"``, ``"head.logits"``), a place
            (``1``), or a ``callable(output) -> tensor``. ``False`` says that it returns none. By default they are
            found by what the targets ask for, see :func:`~convscope.capture.verdict.settle_outputs`.
        classes: How many classes there are, where some are not held out; or a list of the labels that are classes.
        ignore_index: Label that is no class and counts nowhere: 255 in many segmentations. -100 is always ignored.

    Raises:
        ValueError: An argument is out of range; while reading: the source is empty or has NaN or infinite inputs.

    Example:
        >>> import torch
        >>> heldout = HeldOut((torch.randn(30, 3, 8, 8), torch.arange(30) % 3), size=12, batch_size=8)
        >>> heldout.prepare()
        >>> [len(chunk.index) for chunk in heldout.chunks()], heldout.targets.bincount().tolist()
        ([8, 4], [4, 4, 4])
    """

    def __init__(
        self,
        source: Any = None,
        size: int = 1024,
        batch_size: int = 128,
        stratify: bool = True,
        seed: int = 0,
        adapter: Adapter | None = None,
        network: str | None = None,
        logits: Selector | Literal[False] | None = None,
        classes: int | Sequence[int] | None = None,
        ignore_index: int | None = None,
    ) -> None:
        for name, value in (("size", size), ("batch_size", batch_size)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"HeldOut({name}={value!r}): give a whole number of samples, at least 1")
        if not isinstance(seed, int) or seed < 0:
            raise ValueError(f"HeldOut(seed={seed!r}): give a whole number, at least 0")
        if adapter is not None and not callable(adapter):
            raise ValueError(f"HeldOut(adapter={adapter!r}): give a callable(batch) -> (inputs, targets)")
        if network is not None and not (isinstance(network, str) and network):
            raise ValueError(f"HeldOut(network={network!r}): give the name of a submodule, such as 'discriminator'")
        self.logits, self.classes = check_logits(logits), check_classes(classes)
        self.ignore_index = check_ignore_index(ignore_index)
        self.source, self.size, self.batch_size = source, size, batch_size
        self.network = network
        self.stratify, self.seed = stratify, seed
        self.adapter: Adapter = adapter or adapt_batch
        self._gather: Gather = _alone  # no lambda: a held-out set goes to spawned processes
        self._forget()

    def _forget(self) -> None:
        self.inputs: Any = None
        self.targets: torch.Tensor | None = None
        self.summary: TargetSummary | None = None
        self.labels = LabelForm(self.ignore_index)
        self.index = torch.empty(0, dtype=torch.long)
        self.total = 0
        self.fingerprint = ""
        self._real = self._most = 0
        self._tapped: list[tuple[Any, torch.Tensor | None]] = []
        self._tapping = False

    @property
    def identity(self) -> tuple[Any, ...]:
        """Equal where two held-out sets hold the same samples, run alike: as those of a YAML file, each built anew."""
        said = (id(self.logits) if callable(self.logits) else repr(self.logits), self.classes, self.ignore_index)
        how = (self.size, self.batch_size, self.stratify, self.seed, self.network, *said)
        return None if self.source is None else id(self.source), id(self.adapter), *how

    @property
    def ready(self) -> bool:
        """Whether the samples have been read."""
        return self.total > 0

    @property
    def tapping(self) -> bool:
        """Whether batches are still to be copied as they flow by."""
        return self._tapping

    def prepare(
        self,
        default: Any = None,
        *,
        transfer: Callable[[Any], Any] = _as_it_is,
        rank: int = 0,
        world_size: int = 1,
        gather: Gather = _alone,
        most: int | None = None,
    ) -> None:
        """Read the samples, this process's share of them, without a trace in any random stream.

        Args:
            default: Loader to read where no ``source`` was given.
            transfer: What happens to a batch before the adapter sees it (device and precision).
            rank: This process.
            world_size: Number of processes; sample ``i`` goes to process ``i % world_size``.
            gather: Collects one object from every process; every process must call ``prepare``.
            most: Upper bound on ``size`` for this run.
        """
        self._forget()
        self._gather, self._rank, self._world = gather, rank, world_size
        self._limit = self.size if most is None else min(self.size, most)
        source = _resolve(default if self.source is None else self.source)
        if self.source is None and not _indexable(source):
            self._tapping = True
            return
        with torch.inference_mode(False), torch.no_grad(), preserved_random_state(self.seed):
            self._agree(lambda: self._read(source, lambda batch: _checked(*pair(self.adapter, transfer(batch)))))

    def tap(self, batch: Any) -> None:
        """Copy a batch that flows by; once ``size`` samples have, the held-out set is ready."""
        with torch.inference_mode(False), torch.no_grad():
            self._tapped.append(_checked(*pair(self.adapter, batch)))
        if sum(batch_length(inputs) for inputs, _ in self._tapped) * self._world >= self._limit:
            self._tapping = False

    def finish_tapping(self) -> None:
        """Close a tapped set with what has flowed by so far; every process must call it."""
        self._tapping = False

        def join() -> None:
            if not self._tapped:
                raise ValueError(_EMPTY)
            here = math.ceil(self._limit / self._world)
            inputs, targets = (tree_map(lambda t: t[:here], tree_cat(list(p))) for p in zip(*self._tapped, strict=True))
            self._keep(inputs, targets, torch.arange(batch_length(inputs)) * self._world + self._rank)

        self._agree(join)
        self._tapped = []

    def gather(self, value: Any) -> list[Any]:
        """One object from every process, in their order; every process must call it."""
        return self._gather(value)

    def chunks(self, batch_size: int | None = None) -> Iterator[Chunk]:
        """This process's samples in chunks; every process gets the same number of chunks."""
        size = batch_size or self.batch_size
        for start in range(0, self._most, size):
            here = slice(start, min(start + size, self._real))
            padding = start >= self._real
            part = slice(0, 1) if padding else here
            targets = None if self.targets is None else self.labels.canonical(self.targets[part])
            yield Chunk(_part(self.inputs, part), targets, self.index[part], padding)

    def sample(self, size: int) -> HeldOut:
        """At most ``size`` of the prepared samples, drawn at random by the seed; every process must call it."""
        if size >= self.total:
            return self
        said = (self.network, self.logits, self.classes, self.ignore_index)
        part = HeldOut(self.source, size, self.batch_size, self.stratify, self.seed, self.adapter, *said)
        part._gather = self._gather
        drawn = random_order(int(max(self._gather(int(self.index.max()))) + 1), self.seed)
        drawn = drawn[torch.isin(drawn, torch.cat(self._gather(self.index)))][:size]
        here = torch.isin(self.index, drawn).nonzero().flatten()
        index = self.index[here]
        if len(here) == 0:  # a process without a sample still runs one, so that all run as many passes
            here, index = torch.tensor([0]), torch.tensor([-1])
        targets = None if self.targets is None else self.targets[here]
        part._agree(lambda: part._keep(tree_map(lambda t: t[here], self.inputs), targets, index))
        part.labels, part.summary = self.labels, self.summary  # few samples must not look like another task
        return part

    def _read(self, source: Any, adapted: Adapted) -> None:
        if _indexable(source):
            loader = source if isinstance(source, DataLoader) else DataLoader(source, self.batch_size)
            inputs, targets, index = read_selected(
                loader, adapted, self._limit, self.stratify, self.seed, self._rank, self._world, self.ignore_index
            )
        else:
            inputs, targets, index = read_all(source, adapted, self._limit, self._rank, self._world)
        self._keep(inputs, targets, index)

    def _keep(self, inputs: Any, targets: torch.Tensor | None, index: torch.Tensor) -> None:
        _check_finite(inputs)
        self.inputs, self.targets, self.index = inputs, targets, index

    def _agree(self, materialise: Callable[[], None]) -> None:
        """Run ``materialise`` on every process; where it fails on one, it fails on all."""
        failure: Exception | None = None
        summary: TargetSummary | None = None
        try:
            materialise()
            summary = self._summary()
        except Exception as error:
            failure = error
        real = int((self.index >= 0).sum())
        found = self._gather((None if failure is None else str(failure), real, _checksum(self, real), summary))
        for message, *_ in found:
            if message is not None:
                raise failure or ValueError(message)
        self._real, self._most = real, max(n for _, n, _, _ in found)
        self.total = sum(n for _, n, _, _ in found)
        if self.total == 0:
            raise ValueError(_EMPTY)
        self.fingerprint = f"{sum(c for _, _, c, _ in found) % 2**64:016x}-{self.total}"
        self._read_labels(merge_summaries(summary for *_, summary in found))

    def _read_labels(self, summary: TargetSummary | None) -> None:
        """Take in the facts about all targets, and settle in which form everything reads them."""
        self.labels = LabelForm(self.ignore_index, summary is not None and self.classes in (None, 2) and summary.signs)
        self.summary = summary.with_signs_as_classes() if summary is not None and self.labels.signs else summary
        if self.summary is not None:
            self.summary.check_classes(self.classes)

    def _summary(self) -> TargetSummary | None:
        """Facts about this process's targets; a sample that only fills an empty share does not count."""
        if self.targets is None:
            return None
        return summarise_targets(self.targets[self.index >= 0], LabelForm(self.ignore_index))


_EMPTY = "the held-out set is empty: its source gave no sample; check the data set behind HeldOut(source=...)"


def _part(inputs: Any, part: slice) -> Any:
    return tree_map(lambda t: t[part], inputs)


def _resolve(source: Any) -> Any:
    if source is None:
        raise ValueError("HeldOut has no source: there is no validation loader; pass HeldOut(source=...)")
    if hasattr(source, "heldout_dataloader"):
        return source.heldout_dataloader()
    if isinstance(source, torch.Tensor):
        return TensorDataset(source)
    if isinstance(source, tuple | list) and source and all(isinstance(t, torch.Tensor) for t in source):
        return TensorDataset(*source)
    if not isinstance(source, Iterable) and not hasattr(source, "__getitem__"):
        raise ValueError(
            f"HeldOut(source=<{type(source).__name__}>): give a Dataset, a DataLoader, a tuple of tensors, a "
            "DataModule with heldout_dataloader(), or an iterable of batches"
        )
    return source


def _indexable(source: Any) -> bool:
    """Whether single samples can be read by their number."""
    if isinstance(source, DataLoader):
        return source._auto_collation and not isinstance(source.dataset, IterableDataset)
    is_dataset = isinstance(source, Dataset) and not isinstance(source, IterableDataset)
    return is_dataset and hasattr(source, "__len__") and hasattr(source, "__getitem__")


def _checked(inputs: Any, targets: torch.Tensor | None) -> tuple[Any, torch.Tensor | None]:
    """One batch on the CPU, with as many targets as inputs."""
    if targets is not None and len(targets) != batch_length(inputs):
        raise ValueError(
            f"a held-out batch has {batch_length(inputs)} inputs but {len(targets)} targets; "
            "mend the data set or the adapter"
        )
    return tree_map(_to_cpu, inputs), tree_map(_to_cpu, targets)


def _to_cpu(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True)


def _check_finite(inputs: Any) -> None:
    for tensor in tree_tensors(inputs):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = (~torch.isfinite(tensor.flatten(1))).any(1).nonzero().flatten().tolist()
            raise ValueError(
                f"{len(bad)} of {len(tensor)} held-out inputs have NaN or infinite values (samples {bad[:5]}); "
                "remove or mend them, since every number of every layer would be NaN"
            )


def _checksum(heldout: HeldOut, samples: int) -> int:
    """Sum over samples of a hash of number, inputs and targets: the same however samples are divided."""
    total = 0
    tensors = tree_tensors((heldout.inputs, heldout.targets)) if samples else []
    for i in range(samples):
        digest = hashlib.sha256(str(int(heldout.index[i])).encode())
        for tensor in tensors:
            digest.update(tensor[i].contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        total += int.from_bytes(digest.digest()[:8], "little")
    return total
