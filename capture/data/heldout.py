"""The held-out set: a fixed sample of the validation data on which every check is made."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader, Dataset

from convscope._arguments import callable_or_none, flag, refuse, text_or_none, whole_number
from convscope.capture.data.arguments import adapter_text, check_classes, check_ignore_index, check_logits, pair
from convscope.capture.data.batches import Adapter, adapt_batch, as_it_is, tensor_bytes, tree_tensors
from convscope.capture.data.blocks import Block, block_of, joined, passes, pieces
from convscope.capture.data.class_names import check_class_names, names_in, wrong_count
from convscope.capture.data.contents import preserved_contents
from convscope.capture.data.processes import Gather, Processes, alone
from convscope.capture.data.reading import Found, Wanted, read_all, read_selected
from convscope.capture.data.sampling import random_order
from convscope.capture.data.sources import ACCEPTED, by_key, check_source, keeps_samples, resolve
from convscope.capture.data.targets import LabelForm, TargetSummary, merge_summaries, summarise_targets
from convscope.capture.outputs.parts import Selector
from convscope.capture.state.generators import preserved_generators
from convscope.capture.state.isolation import preserved_random_state


@dataclass(frozen=True)
class Chunk:
    """Held-out samples of one pass: ``inputs`` and ``targets`` (None where there are none) with ``(n, ...)`` tensors.

    Integer targets are int64, and ignored labels -100, whatever the user's data has.
    ``index`` ``(n,)`` is each sample's number in the whole held-out set. A ``padding`` chunk repeats a sample,
    so that every process runs the same number of forward passes; its results must not be counted.
    """

    inputs: Any
    targets: torch.Tensor | None
    index: torch.Tensor
    padding: bool = False


class HeldOut:
    """A held-out set, read once and kept in memory on the CPU, the same for the whole run and after a resume.

    Args:
        source: Source of the samples: a ``Dataset``, a ``DataLoader``, a tuple of tensors ``(inputs, targets)``,
            a DataModule with ``heldout_dataloader()``, or any iterable of batches. Default: the trainer's first
            validation loader. From a loader the samples that its own sampler yields are taken. A validation loader
            whose samples cannot be read one by one (an ``IterableDataset``, an ``__iter__`` of its own) is not
            consumed: its batches are copied during the first validation.
        size: Number of samples, over all processes. Fewer where the source has fewer.
        batch_size: Samples per forward pass.
        stratify: Keep each class's share if targets are class indices. Otherwise the choice is random.
        seed: Fixes the choice of samples and, with each sample's number, all randomness in reading it (augmentation).
        adapter: ``adapter(batch) -> (inputs, targets)`` for batches that are not recognised without it
            (tuples, lists, dicts, named tuples and dataclasses are). ``inputs`` may be a tensor, a tuple
            (``model(*inputs)``) or a dict (``model(**inputs)``).
        network: Name of the submodule to run on these inputs, ``"discriminator"``; by default the model itself, or,
            where it has no ``forward``, its only submodule.
        logits: The part of the model's result that is its logits: a name (``"logits"``, ``"head.logits"``), a place
            (``1``), or a ``callable(output) -> tensor``. ``False`` says that it returns none. By default they are
            found by what the targets ask for, see :func:`~convscope.capture.outputs.verdict.settle_outputs`.
        classes: How many classes there are, where some are not held out; or a list of the labels that are classes.
        ignore_index: Label that is no class and counts nowhere: 255 in many segmentations. -100 is always ignored.
        class_names: Names of the classes in the order of their labels, for pictures, tables and text. By default those
            that the data set has as ``classes``, also inside ``Subset``, ``ConcatDataset`` and other wrappers.
        during_validation: True lets callbacks that need no gradients read the held-out samples in the validation that
            runs them anyway, in place of a pass of their own. Where that cannot be done a check makes its pass, and one
            sentence says why.

    Attributes:
        total: Number of samples over all processes.
        summary: Facts about the targets, over all processes.
        fingerprint: Text that differs for other samples, and is the same for any number of processes and workers.
        notes: Sentences that the user should read: samples that cannot be read, randomness that cannot be seeded.

    Raises:
        ValueError: if an argument is out of range; while reading, if the source is empty or has NaN or infinite inputs.

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
        class_names: Sequence[str] | None = None,
        during_validation: bool = False,
    ) -> None:
        if source is not None:
            check_source(source)
        self.source = source
        self.size = whole_number("HeldOut(size", size, "a whole number of samples")
        self.batch_size = whole_number("HeldOut(batch_size", batch_size, "a whole number of samples")
        self.stratify = flag("HeldOut(stratify", stratify)
        self.seed = whole_number("HeldOut(seed", seed, least=0)
        call, none = "adapter(batch) -> (inputs, targets)", "where batches are recognised without one"
        self.adapter: Adapter = callable_or_none("HeldOut(adapter", adapter, call, none) or adapt_batch
        self.network = text_or_none("HeldOut(network", network, "the name of a submodule, such as 'discriminator'")
        self.logits, self.classes = check_logits(logits), check_classes(classes)
        self.ignore_index = check_ignore_index(ignore_index)
        self.class_names = check_class_names(class_names, self.classes)
        self.during_validation = flag("HeldOut(during_validation", during_validation)
        self._forget()

    def _forget(self) -> None:
        self.summary: TargetSummary | None = None
        self._names: tuple[str, ...] | None = self.class_names
        self.labels = LabelForm(self.ignore_index)
        self.total = 0
        self.fingerprint = ""
        self.notes: list[str] = []
        self._processes = Processes()
        self._blocks: list[Block] = []
        self._lengths: list[list[int]] = []
        self._tapped: list[Block] = []
        self.few: Any = None  # samples for rehearsals of the forward pass, once they are chosen
        self._tapping = False

    @property
    def identity(self) -> tuple[Any, ...]:
        """Equal where two held-out sets hold the same samples, run alike: as those of a YAML file, each built anew."""
        said = (
            id(self.logits) if callable(self.logits) else repr(self.logits),
            self.classes,
            self.ignore_index,
            self.class_names,
            self.during_validation,
        )
        how = (self.size, self.batch_size, self.stratify, self.seed, self.network, *said)
        # Tensors may be in a new tuple each time: suite(heldout=(x, y)) twice means one set.
        is_several = isinstance(self.source, list | tuple) and len(self.source) < 10
        source = tuple(map(id, self.source)) if is_several else id(self.source)
        return None if self.source is None else source, id(self.adapter), *how

    @property
    def ready(self) -> bool:
        """Return whether the samples have been read."""
        return self.total > 0

    @property
    def index(self) -> torch.Tensor:
        """``(n,)`` numbers of this process's samples; one of -1 only fills an empty share."""
        return torch.cat([torch.empty(0, dtype=torch.long), *(block.index for block in self._blocks)])

    @property
    def inputs(self) -> Any:
        """Inputs of this process's samples, in the order of ``index``.

        Raises:
            ValueError: if the samples have several sizes, so that there is no single tensor of them.
        """
        if len(self._blocks) > 1:
            raise ValueError(
                f"held-out samples of {len(self._blocks)} sizes do not fit one tensor; use chunks(), or one(number)"
            )
        return self._blocks[0].inputs if self._blocks else None

    @property
    def targets(self) -> torch.Tensor | None:
        """Targets of this process's samples, in the order of ``index``; None where there are none.

        Where they are of several sizes (masks of images of several sizes), those of the first size.
        """
        found = [block.targets for block in self._blocks if block.targets is not None]
        if len(found) < len(self._blocks) or not found:
            return None
        same = all(each.shape[1:] == found[0].shape[1:] and each.dtype == found[0].dtype for each in found)
        return torch.cat(found) if same else found[0]

    def one(self, number: int) -> Any:
        """Inputs of one sample of this process's, with one row; None where the process does not hold it."""
        for block in self._blocks:
            places = (block.index == number).nonzero().flatten()
            if len(places):
                return block.take(places[:1]).inputs
        return None

    @property
    def tapping(self) -> bool:
        """Return whether batches are still to be copied during validation."""
        return self._tapping

    def prepare(
        self,
        default: Any = None,
        *,
        transfer: Callable[[Any], Any] = as_it_is,
        rank: int = 0,
        world_size: int = 1,
        gather: Gather = alone,
        most: int | None = None,
    ) -> None:
        """Read this process's share of the samples, and leave every random stream as it was.

        Args:
            default: Loader to read where no ``source`` was given.
            transfer: Function applied to a batch before the adapter sees it (device and precision).
            rank: This process.
            world_size: Number of processes; sample ``i`` goes to process ``i % world_size``.
            gather: Collects one object from every process; every process must call ``prepare``.
            most: Upper bound on ``size`` for this run.
        """
        self._forget()
        self._processes = Processes(rank, world_size, gather)
        self._limit = self.size if most is None else min(self.size, most)
        roots = default if self.source is None else self.source, self.adapter, transfer
        with self._undisturbed(*roots):
            source, single = self._resolved(roots[0])
            self._names = self.class_names or self.from_main(names_in(source))
            if self.source is None and not single:
                self._tapping = True
                return
            self._agree(lambda: self._read(source, single, lambda batch: self._adapted(transfer(batch))))

    def _resolved(self, given: Any) -> tuple[Any, bool]:
        """The source to read, and whether to read it by key, on which all processes agree."""
        here: list[Any] = []

        def mine() -> bool:
            here.append(resolve(given))
            return by_key(here[0], self.source is None or hasattr(self.source, "heldout_dataloader"))

        single = all(self._processes.each(mine))
        return here[0], single

    @contextmanager
    def _undisturbed(self, *roots: Any) -> Iterator[None]:
        """Leave random streams, and the state of data sets, samplers and the user's functions, as they were."""
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
            stack.enter_context(preserved_random_state(self.seed))
            stack.enter_context(preserved_generators(*roots, seed=self.seed))
            stack.enter_context(preserved_contents(*filter(keeps_samples, roots)))
            yield

    def tap(self, batch: Any) -> None:
        """Copy a batch of the validation; after ``size`` samples the held-out set is ready."""
        if batch is None:  # a collate function that drops all its samples may return it
            return
        with self._undisturbed(None, self.adapter):
            self._tapped.append(self._adapted(batch))
        if sum(map(len, self._tapped)) * self._processes.size >= self._limit:
            self._tapping = False

    def finish_tapping(self) -> None:
        """Close a tapped set with the samples copied so far; every process must call it."""
        self._tapping = False

        def join() -> Found:
            if not self._tapped:
                raise ValueError(_EMPTY)
            here = math.ceil(self._limit / self._processes.size)
            places = torch.arange(sum(map(len, self._tapped))).split([len(block) for block in self._tapped])
            blocks = [block.numbered(place) for block, place in zip(self._tapped, places, strict=True)]
            kept = joined(block.take(block.index < here) for block in blocks)
            step, first = self._processes.size, self._processes.rank
            return Found([block.numbered(block.index * step + first) for block in kept])

        self._agree(join)
        self._tapped = []

    def gather(self, value: Any) -> list[Any]:
        """One object from every process, in their order; every process must call it."""
        return self._processes.gather(value)

    def chunks(self, batch_size: int | None = None) -> Iterator[Chunk]:
        """This process's samples in chunks; every process gets the same number of chunks.

        The samples of a chunk have one size, so there are more chunks where sizes differ.
        """
        size = batch_size or self.batch_size
        real = 0
        for piece in pieces(self._real(), size):
            real += 1
            yield self._chunk(piece)
        filler = self._blocks[0].take(slice(0, 1))
        for _ in range(max(passes(lengths, size) for lengths in self._lengths) - real):
            yield self._chunk(filler, padding=True)

    def _chunk(self, block: Block, padding: bool = False) -> Chunk:
        targets = None if block.targets is None else self.labels.canonical(block.targets)
        return Chunk(block.inputs, targets, block.index, padding)

    def from_main(self, value: Any) -> Any:
        """The main process's value on every process; every process must call it."""
        return self._processes.gather(value if self._processes.rank == 0 else None)[0]

    def sample(self, size: int) -> HeldOut:
        """At most ``size`` of the prepared samples, drawn at random by the seed; every process must call it."""
        if size >= self.total:
            return self
        part = copy.copy(self)
        part.size, part._tapped, part.few = size, [], None
        drawn = random_order(self.total, self.seed)
        if self._numbers != self.total:  # tapped shares of unequal length leave numbers out
            drawn = random_order(self._numbers, self.seed)
            drawn = drawn[torch.isin(drawn, torch.cat(self._processes.gather(self.index)))]
        chosen = drawn[:size]
        blocks = [block.take(torch.isin(block.index, chosen)) for block in self._blocks]
        filler = self._blocks[0].take(slice(0, 1)).numbered(torch.tensor([-1]))
        part._agree(lambda: Found(joined(blocks) or [filler]))
        part.labels, part.summary = self.labels, self.summary  # few samples must not look like another task
        return part

    def class_label(self, label: int) -> str:
        """A class for people: its name, where that is known, else its label.

        Args:
            label: As callbacks see it: of -1 and 1 it is 0 and 1.
        """
        places = self.classes if isinstance(self.classes, tuple) else range(len(self._names or ()))
        if self._names is None or label not in places:
            return str(label)
        return self._names[places.index(label)]

    def check_class_names(self, outputs: int = 0) -> None:
        """Compare the number of names with the targets, and with the number of classes that outputs tell apart.

        Names that the data set has are dropped where they do not fit: they may be of another task.

        Raises:
            ValueError: The user's names are too few or too many.
        """
        listed = isinstance(self.classes, tuple)  # then labels are no places
        if self._names is None or listed or not (why := wrong_count(self._names, self.summary, outputs)):
            return
        if self.class_names is not None:
            raise ValueError(
                f"HeldOut(class_names) has {len(self.class_names)} names, but {why}; give one name a class, in the "
                "order of the labels"
            )
        self._names = None

    def _adapted(self, batch: Any) -> Block:
        return block_of(*pair(self.adapter, batch))

    def _read(self, source: Any, single: bool, adapted: Callable[[Any], Block]) -> Found:
        if not single:
            return read_all(source, adapted, self._limit, self._processes)
        loader = source if isinstance(source, DataLoader) else DataLoader(source, self.batch_size)
        wanted = Wanted(self._limit, self.stratify, self.seed, self.ignore_index)
        if self.adapter is not adapt_batch:
            wanted = replace(wanted, maker=adapter_text(self.adapter))
        return read_selected(loader, adapted, wanted, self._processes)

    def _agree(self, materialise: Callable[[], Found]) -> None:
        """Store the results of ``materialise`` on every process; where it fails on one, it fails on all."""

        def mine() -> tuple[list[int], int, TargetSummary | None, int]:
            found = materialise()
            self._blocks, self.notes = found.blocks, found.notes
            real = self._real()
            for block in real:
                _check_finite(block)
            last = max((int(block.index.max()) for block in real), default=-1)
            form = LabelForm(self.ignore_index)
            summary = merge_summaries(summarise_targets(b.targets, form) for b in real if b.targets is not None)
            return [len(block) for block in real], sum(map(_checksum, real)), summary, last + 1

        found = self._processes.each(mine)
        self._lengths = [lengths for lengths, *_ in found]
        self._numbers = max(numbers for *_, numbers in found)
        self.total = sum(map(sum, self._lengths))
        if self.total == 0:
            raise ValueError(_EMPTY)
        self.fingerprint = f"{sum(checksum for _, checksum, *_ in found) % 2**64:016x}-{self.total}"
        self._read_labels(merge_summaries(summary for _, _, summary, _ in found))

    def _read_labels(self, summary: TargetSummary | None) -> None:
        """Store the facts about all targets, and settle the form in which everything reads them."""
        self.labels = LabelForm(self.ignore_index, summary is not None and self.classes in (None, 2) and summary.signs)
        self.summary = summary.with_signs_as_classes() if summary is not None and self.labels.signs else summary
        if self.summary is not None:
            self.summary.check_classes(self.classes)
            self.check_class_names()

    def _real(self) -> list[Block]:
        """The blocks without a sample that only fills an empty share."""
        return [block for block in self._blocks if int(block.index[0]) >= 0]


_EMPTY = "the held-out set is empty: its source gave no samples; check the data set behind HeldOut(source=...)"


def _check_finite(block: Block) -> None:
    for tensor in tree_tensors(block.inputs):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = block.index[(~torch.isfinite(tensor.flatten(1))).any(1)].tolist() if len(tensor) == len(block) else []
            raise ValueError(
                f"{len(bad)} of {len(tensor)} held-out inputs have NaN or infinite values (samples {bad[:5]}); "
                "remove or fix them; otherwise every metric would be NaN"
            )


def _checksum(block: Block) -> int:
    """Sum over samples of a hash of number, inputs and targets: the same however samples are divided."""
    total = 0
    tensors = tree_tensors((block.inputs, block.targets))
    for place, number in enumerate(block.index.tolist()):
        digest = hashlib.sha256(str(number).encode())
        for tensor in tensors:
            own = tensor.dim() > 0 and len(tensor) == len(block)
            digest.update(tensor_bytes(tensor[place] if own else tensor))
        total += int.from_bytes(digest.digest()[:8], "little")
    return total


HeldOutLike = HeldOut | DataLoader | Dataset | torch.Tensor | Sequence[torch.Tensor] | Iterable | None
"""Values that a callback's ``heldout=`` takes."""


def as_heldout(given: Any, name: str = "heldout") -> HeldOut | None:
    """The held-out set that a callback's ``heldout=`` gives, or that is read from it; None for the shared one.

    Raises:
        ValueError: if it is neither.
    """
    if given is None or isinstance(given, HeldOut):
        return given
    try:
        return HeldOut(given)
    except ValueError as error:
        raise refuse(name, given, f"HeldOut(...), or a source of samples: {ACCEPTED}") from error
