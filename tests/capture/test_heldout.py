"""The held-out set: any source, a fixed choice, no trace in the random streams."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter, namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from convscope.capture import HeldOut
from tests.support.heldout import Stream, numbered, numbers, prepared
from tests.support.processes import gather, in_processes

IMAGES, _ = numbered(40)
LABELS = torch.tensor([0] * 24 + [1] * 12 + [2] * 4)


class Augmented(Dataset):
    """Draws from every random stream at each read; labels only inside samples."""

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        noise = torch.rand(()) + random.random() + float(np.random.rand())
        return IMAGES[i] + 100 * noise, int(LABELS[i])


SOURCES = {
    "tensors": lambda: (IMAGES, LABELS),
    "dataset": lambda: TensorDataset(IMAGES, LABELS),
    "loader": lambda: DataLoader(TensorDataset(IMAGES, LABELS), batch_size=7, shuffle=True),
    "workers": lambda: DataLoader(TensorDataset(IMAGES, LABELS), batch_size=7, num_workers=2),
    "subset": lambda: Subset(TensorDataset(IMAGES, LABELS), range(40)),
}


@pytest.mark.parametrize("source", SOURCES)
def test_each_source_gives_the_same_stratified_choice(source: str) -> None:
    heldout = prepared(SOURCES[source](), size=10)
    assert heldout.total == 10
    assert Counter(heldout.targets.tolist()) == {0: 6, 1: 3, 2: 1}
    reference = prepared((IMAGES, LABELS), size=10)
    assert numbers(heldout) == numbers(reference)
    assert heldout.fingerprint == reference.fingerprint


def test_the_seed_decides_and_stratify_can_be_switched_off() -> None:
    first, second = (numbers(prepared((IMAGES, LABELS), size=10, seed=seed)) for seed in (0, 1))
    assert first != second
    unstratified = prepared((IMAGES, LABELS), size=10, seed=3, stratify=False)
    assert Counter(unstratified.targets.tolist()) != {0: 6, 1: 3, 2: 1}


def test_labels_inside_samples_are_read_for_stratification() -> None:
    heldout = prepared(Augmented(), size=10)
    assert Counter(heldout.targets.tolist()) == {0: 6, 1: 3, 2: 1}


def test_reading_leaves_every_random_stream_alone_and_is_repeatable() -> None:
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    heldouts = [prepared(DataLoader(Augmented(), batch_size=4, num_workers=w), size=12) for w in (0, 0, 2)]
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])
    assert heldouts[0].fingerprint == heldouts[1].fingerprint  # augmentation is seeded


def test_an_iterable_given_as_source_is_read_from_its_beginning() -> None:
    heldout = prepared(DataLoader(Stream(IMAGES, LABELS), batch_size=16), size=20)
    assert numbers(heldout) == list(range(20))
    assert numbers(prepared([(IMAGES[:15], LABELS[:15])] * 2, size=20)) == [*range(15), *range(5)]


def test_an_iterable_validation_loader_is_tapped_not_consumed() -> None:
    class Once:
        def __iter__(self) -> Any:
            raise AssertionError("the validation loader was consumed")

    heldout = HeldOut(size=20)
    heldout.prepare(Once())
    assert heldout.tapping
    assert not heldout.ready
    for start in (0, 16):
        heldout.tap((IMAGES[start : start + 16], LABELS[start : start + 16]))
    assert not heldout.tapping  # 32 have flowed by
    heldout.finish_tapping()
    assert numbers(heldout) == list(range(20))


def test_nothing_tapped_is_an_error() -> None:
    heldout = HeldOut(size=20)
    heldout.prepare(iter(()))
    with pytest.raises(ValueError, match="held-out set is empty"):
        heldout.finish_tapping()


Pair = namedtuple("Pair", ["label", "image"])


@dataclasses.dataclass
class Sample:
    pixel_values: torch.Tensor
    labels: torch.Tensor


@pytest.mark.parametrize(
    "batch",
    [
        (IMAGES, LABELS),
        [IMAGES, LABELS, "meta"],
        {"image": IMAGES, "label": LABELS, "name": ["a"] * 40},
        {"Y": LABELS, "X": IMAGES},
        Pair(LABELS, IMAGES),
        Sample(IMAGES, LABELS),
    ],
    ids=lambda batch: type(batch).__name__,
)
def test_batches_of_any_usual_form(batch: Any) -> None:
    heldout = prepared([batch], size=40)
    assert torch.equal(heldout.inputs, IMAGES)
    assert torch.equal(heldout.targets, LABELS)


def test_a_batch_without_targets() -> None:
    assert prepared(IMAGES, size=5).targets is None


def test_the_adapter_takes_any_other_batch() -> None:
    with pytest.raises(TypeError, match=r"a dict with fields \['pic', 'kind'\]; pass HeldOut\(adapter="):
        prepared([{"pic": IMAGES, "kind": LABELS}])
    heldout = prepared(
        [{"pic": IMAGES, "kind": LABELS}], adapter=lambda b: ({"a": b["pic"], "b": (b["pic"],)}, b["kind"])
    )
    chunk = next(heldout.chunks(3))
    assert torch.equal(chunk.inputs["a"], IMAGES[:3])
    assert torch.equal(chunk.inputs["b"][0], IMAGES[:3])


def test_chunks_cover_every_sample_once() -> None:
    heldout = prepared((IMAGES, LABELS), size=40, batch_size=16)
    chunks = list(heldout.chunks())
    assert [len(chunk.index) for chunk in chunks] == [16, 16, 8]
    assert torch.cat([chunk.index for chunk in chunks]).tolist() == list(range(40))


@pytest.mark.parametrize("world_size", [2, 3, 12])
@pytest.mark.parametrize("source", ["tensors", "iterable"])
def test_processes_divide_the_samples_and_run_the_same_number_of_chunks(world_size: int, source: str) -> None:
    given: Any = (IMAGES, LABELS) if source == "tensors" else [(IMAGES, LABELS)]

    def share(rank: int) -> Any:
        heldout = HeldOut(given, size=10, batch_size=2)
        heldout.prepare(rank=rank, world_size=world_size, gather=gather)
        chunks = [(chunk.index.tolist(), len(chunk.inputs), chunk.padding) for chunk in heldout.chunks()]
        return chunks, heldout.fingerprint, heldout.total, heldout.summary, heldout.sample(4).index.tolist()

    shares = in_processes(share, world_size)
    whole = prepared(given, size=10)
    real = [numbers for chunks, *_ in shares for numbers, _, padding in chunks if not padding]
    assert len({len(chunks) for chunks, *_ in shares}) == 1
    assert sorted(number for numbers in real for number in numbers) == list(range(10))
    assert all(length > 0 for chunks, *_ in shares for _, length, _ in chunks)
    assert {each[1:4] for each in shares} == {(whole.fingerprint, 10, whole.summary)}
    drawn = [number for *_, part in shares for number in part if number >= 0]
    assert sorted(drawn) == whole.sample(4).index.tolist()


def test_a_failure_on_another_process_is_raised_here_too() -> None:
    def share(rank: int) -> str:
        heldout = HeldOut([(IMAGES, LABELS if rank == 0 else LABELS[:39])])
        with pytest.raises(ValueError, match="40 inputs but 39 targets") as caught:
            heldout.prepare(rank=rank, world_size=2, gather=gather)
        return str(caught.value)

    assert len(set(in_processes(share, 2))) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, r"HeldOut\(size=0\)"),
        ({"batch_size": -1}, r"HeldOut\(batch_size=-1\)"),
        ({"size": 2.5}, r"HeldOut\(size=2.5\)"),
        ({"seed": -1}, r"HeldOut\(seed=-1\)"),
        ({"adapter": 3}, r"HeldOut\(adapter=3\)"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HeldOut(**arguments)


def test_faulty_samples() -> None:
    with pytest.raises(ValueError, match="the held-out set is empty"):
        prepared((IMAGES[:0], LABELS[:0]))
    bad = IMAGES.clone()
    bad[[3, 7]] = float("nan")
    with pytest.raises(ValueError, match=r"2 of 40 held-out inputs have NaN or infinite values \(samples \[3, 7\]\)"):
        prepared((bad, LABELS))
    with pytest.raises(ValueError, match="a held-out batch has 40 inputs but 39 targets"):
        prepared([(IMAGES, LABELS[:39])])
    with pytest.raises(ValueError, match="no validation loader; pass HeldOut"):
        prepared(None)
    with pytest.raises(ValueError, match=r"HeldOut\(source=7\): give a Dataset"):
        prepared(7)


def test_a_data_module_with_its_own_heldout_loader() -> None:
    class Module:
        def heldout_dataloader(self) -> DataLoader:
            return DataLoader(TensorDataset(IMAGES, LABELS), batch_size=8)

    assert prepared(Module(), size=40).total == 40


def test_another_set_has_another_fingerprint() -> None:
    changed = IMAGES.clone()
    changed[0, 0, 0, 0] += 1e-6
    prints = {prepared(source, size=40).fingerprint for source in ((IMAGES, LABELS), (changed, LABELS))}
    labels = LABELS.clone()
    labels[0] = 2
    prints |= {prepared((IMAGES, labels), size=40).fingerprint, prepared((IMAGES, LABELS), size=39).fingerprint}
    assert len(prints) == 4


def test_a_sample_of_the_samples_is_fixed_and_divides_over_processes() -> None:
    whole = HeldOut((torch.randn(30, 2), torch.arange(30) % 3), size=20, batch_size=8)
    whole.prepare()
    part = whole.sample(7)
    assert part.total == 7
    assert torch.equal(part.inputs, whole.inputs[part.index])
    assert torch.equal(part.targets, whole.targets[part.index])
    assert torch.equal(part.index, whole.sample(7).index)
    assert whole.sample(20) is whole
