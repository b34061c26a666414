"""The held-out set in real fits: never a training sample, and never a trace in what training reads."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    random_split,
)

import convscope
from tests.callbacks.conftest import Classifier, loaders
from tests.compatibility.cells import assert_same_training, few, small, train
from tests.networks import Plain, images

PICTURES = torch.randn(80, 3, 8, 8, generator=torch.Generator().manual_seed(0))
RANDOM = torch.randint(0, 3, (80,), generator=torch.Generator().manual_seed(1))


class Memoriser(Classifier):
    """Learns random labels by heart: its probes are right on training samples, and at chance on others."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 36, 3)))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


@pytest.mark.parametrize("how", ["sampler", "batch sampler", "weights"])
def test_one_data_set_divided_by_two_samplers(how: str, tmp_path: Path) -> None:
    data = TensorDataset(PICTURES, RANDOM)
    inside, outside = SubsetRandomSampler(range(60)), SubsetRandomSampler(range(60, 80))  # type: ignore[arg-type]
    validation = {
        "sampler": lambda: DataLoader(data, 8, sampler=outside),
        "batch sampler": lambda: DataLoader(data, batch_sampler=BatchSampler(outside, 8, False)),
        "weights": lambda: DataLoader(data, 8, sampler=WeightedRandomSampler((torch.arange(80) >= 60).double(), 300)),
    }[how]()
    heldout = convscope.HeldOut(size=20)
    done = train(
        [convscope.LayerProbe(heldout=heldout, on_error="raise")], tmp_path, make=Memoriser, max_epochs=12,
        data=lambda: (DataLoader(data, 10, sampler=inside), validation),
    )  # fmt: skip
    assert torch.equal(heldout.inputs, PICTURES[60:])
    assert torch.equal(heldout.targets, RANDOM[60:])
    with torch.no_grad():
        remembered = (done.module(PICTURES[:60]).argmax(1) == RANDOM[:60]).float().mean()
    assert remembered > 0.95
    assert done.scalars["probe/accuracy/output"] < 0.7  # random labels: 0.33, and 20 samples


class Shared(Dataset):
    """A transform with a generator of its own, read by training and validation alike."""

    def __init__(self, rng: Any) -> None:
        self.rng = rng
        self.pictures, self.labels = images(40)

    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> Any:
        return self.pictures[i] + float(self.rng.random()), self.labels[i]


class Counting(Dataset):
    """What it gives depends on how often it was asked, in each of the ways in which that can be remembered."""

    total = 0

    def __init__(self) -> None:
        self.pictures, self.labels = images(40)
        self.reads, self.cache, self.log = 0, dict[int, Any](), list[int]()
        self.counts, self.tensor = np.zeros(1), torch.zeros(1)

        def ask() -> int:
            nonlocal asked
            asked += 1
            return asked

        asked, self.ask = 0, ask

    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> Any:
        global READS
        READS += 1
        Counting.total += 1
        self.reads += 1
        self.counts += 1
        self.tensor += 1
        self.log.append(i)
        known = self.cache.setdefault(i, self.reads)
        shift = (READS + Counting.total + self.reads + len(self.log) + known + self.ask()) / 600
        return self.pictures[i] + shift + float(self.counts[0] + self.tensor[0]) / 200, self.labels[i]


READS = 0


class Turning(Sampler):
    """Starts elsewhere at each pass."""

    def __init__(self, samples: int) -> None:
        self.samples, self.start = samples, 0

    def __iter__(self) -> Any:
        self.start += 1
        yield from ((self.start * 5 + i) % self.samples for i in range(self.samples))

    def __len__(self) -> int:
        return self.samples


def split_with_a_shared_generator() -> Any:
    generator = torch.Generator().manual_seed(0)
    inside, outside = random_split(TensorDataset(*images(40)), [20, 20], generator)
    sampler = RandomSampler(outside, replacement=True, generator=generator)
    return DataLoader(inside, 4, shuffle=True, generator=generator), DataLoader(
        outside, 4, sampler=sampler, generator=generator
    )


def halves(data: Dataset) -> Any:
    return DataLoader(Subset(data, range(20)), 5, shuffle=True), DataLoader(Subset(data, range(20, 40)), 5)


def counting() -> Any:
    global READS
    READS = Counting.total = 0
    return halves(Counting())


def turning() -> Any:
    data, sampler = TensorDataset(*images(40)), Turning(40)
    return DataLoader(data, 5, sampler=sampler), DataLoader(data, 5, sampler=sampler)


class Module(L.LightningDataModule):
    """Draws where it makes its loaders."""

    def __init__(self) -> None:
        super().__init__()
        self.rng = np.random.default_rng(0)

    def train_dataloader(self) -> DataLoader:
        order = self.rng.permutation(32)
        return DataLoader(Subset(TensorDataset(*images(32)), order.tolist()), 8, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(TensorDataset(*images(30, seed=1)), 8)

    def heldout_dataloader(self) -> DataLoader:
        data, _ = random_split(TensorDataset(*images(30, seed=1)), [20, 10])
        return DataLoader(Subset(data, self.rng.permutation(20).tolist()), 8)


SHARED = {
    "split and sampler": split_with_a_shared_generator,
    "numpy generator": lambda: halves(Shared(np.random.default_rng(0))),
    "python generator": lambda: halves(Shared(__import__("random").Random(0))),
    "counters and caches": counting,
    "one sampler": turning,
    "data module": Module,
}


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("arguments", [{}, {"num_sanity_val_steps": 0}], ids=["", "no sanity check"])
def test_what_training_and_validation_share_is_read_without_moving_it(
    name: str, arguments: Any, tmp_path: Path
) -> None:
    heldout = convscope.HeldOut(size=16)
    assert_same_training(
        few(heldout=heldout), tmp_path, make=small, data=SHARED[name], reload_dataloaders_every_n_epochs=1, **arguments
    )
    assert heldout.total > 10


def test_what_cannot_be_put_back_is_said_before_training(tmp_path: Path) -> None:
    class Endless(Shared):
        def __init__(self) -> None:
            super().__init__(None)
            self.shifts = itertools.cycle([0.0, 0.1, 0.2])

        def __getitem__(self, i: int) -> Any:
            return self.pictures[i] + next(self.shifts), self.labels[i]

    with pytest.warns(UserWarning, match=r"keeps an iterator \(Endless.shifts\), which reading them advances"):
        train(few(), tmp_path, make=small, data=lambda: halves(Endless()), max_epochs=1)


# What heldout= takes.

VALUES = {
    "loader": lambda: DataLoader(TensorDataset(*images(30, seed=1)), 8),
    "data set": lambda: TensorDataset(*images(30, seed=1)),
    "tensors": lambda: images(30, seed=1),
    "list of tensors": lambda: list(images(30, seed=1)),
    "batches": lambda: [images(30, seed=1)],
    "arrays": lambda: tuple(t.numpy() for t in images(30, seed=1)),
    "held-out set": lambda: convscope.HeldOut(images(30, seed=1)),
}


@pytest.mark.parametrize("name", VALUES)
def test_heldout_takes_what_a_held_out_set_is_read_from(name: str, tmp_path: Path) -> None:
    value = VALUES[name]()
    probe = convscope.LayerProbe(heldout=value, on_error="raise")
    _, correlation = convscope.suite("light", heldout=value, alerts=False, on_error="raise")
    train([probe, correlation], tmp_path, make=small, max_epochs=1)
    assert isinstance(probe.heldout, convscope.HeldOut)
    assert probe.heldout.identity == correlation.heldout.identity  # one set, read once
    assert torch.equal(probe.heldout.inputs, images(30, seed=1)[0])


@pytest.mark.parametrize(
    "value", ["validation", 3, 0.5, object(), {"image": PICTURES}, convscope.LayerProbe, lambda: 0]
)
@pytest.mark.parametrize(
    "make", [convscope.LayerProbe, convscope.AblationOracle, lambda heldout: convscope.suite(heldout=heldout)]
)
def test_anything_else_is_refused(value: Any, make: Any) -> None:
    with pytest.raises(ValueError, match=r"heldout=.*: give HeldOut\(...\), or a source of samples: a Dataset"):
        make(heldout=value)


def test_several_loaders_are_no_held_out_set() -> None:
    with pytest.raises(ValueError, match="heldout=<list>"):
        convscope.LayerProbe(heldout=[loaders()[1], loaders()[1]])
    with pytest.raises(ValueError, match="give one of them"):
        convscope.HeldOut([loaders()[1], loaders()[1]])


# Odd loaders.


class Sizes(Dataset):
    """Images of three sizes."""

    def __init__(self, samples: int, seed: int) -> None:
        self.pictures, self.labels = images(samples, side=10, seed=seed)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> Any:
        side = 8 + i % 3
        return self.pictures[i, :, :side, :side], self.labels[i]


def by_size(samples: int, seed: int, batch: int) -> DataLoader:
    order = [list(range(first, samples, 3)) for first in range(3)]
    batches = [part[start : start + batch] for part in order for start in range(0, len(part), batch)]
    return DataLoader(Sizes(samples, seed), batch_sampler=batches)


@pytest.mark.parametrize(
    "val", [lambda: DataLoader(Sizes(30, 1), 1), lambda: by_size(30, 1, 4)], ids=["single", "buckets"]
)
def test_images_of_several_sizes(val: Any, tmp_path: Path) -> None:
    heldout = convscope.HeldOut(size=24)
    found = assert_same_training(few(heldout=heldout), tmp_path, make=small, data=lambda: (by_size(32, 0, 4), val()))
    assert heldout.total == 24
    again = train(
        few(heldout=convscope.HeldOut(size=24, batch_size=3)),
        tmp_path,
        make=small,
        data=lambda: (by_size(32, 0, 4), val()),
    )
    for tag in ("probe/accuracy/net.conv1", "importance/gini/net.conv2", "probe/depth"):
        if tag in found.scalars:
            assert found.scalars[tag] == pytest.approx(again.scalars[tag], rel=1e-4)


class Both(Classifier):
    """Each batch is a dict of two loaders' batches."""

    def __init__(self) -> None:
        super().__init__(Plain(channels=3))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch["a"]
        self.log("val_loss", F.cross_entropy(self(x), y))


def test_loaders_that_are_combined_give_the_batches_that_validation_sees(tmp_path: Path) -> None:
    def data() -> Any:
        two = {name: DataLoader(TensorDataset(*images(n, seed=n)), 8) for name, n in (("a", 30), ("b", 24))}
        return loaders()[0], CombinedLoader(two, "max_size")

    seen = []

    def adapter(batch: Any) -> Any:
        seen.append(sorted(batch))
        return batch["a"]

    heldout = convscope.HeldOut(size=20, adapter=adapter)
    assert_same_training(few(heldout=heldout), tmp_path, make=Both, data=data)
    assert torch.equal(heldout.inputs, images(30, seed=30)[0][:20])
    given = convscope.HeldOut(data()[1], size=20, adapter=lambda batch: batch["a"])
    given.prepare()
    assert torch.equal(given.inputs, heldout.inputs)


class Anywhere(Classifier):
    def __init__(self) -> None:
        super().__init__(Plain(channels=3))

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))


def test_the_first_of_nested_loaders(tmp_path: Path) -> None:
    def data() -> Any:
        first, second = (DataLoader(TensorDataset(*images(n, seed=n)), 8) for n in (30, 24))
        return loaders()[0], {"x": [first, second], "y": second}

    heldout = convscope.HeldOut()
    assert_same_training(few(heldout=heldout), tmp_path, make=Anywhere, data=data)
    assert torch.equal(heldout.inputs, images(30, seed=30)[0])


def test_a_plain_list_of_batches_as_the_loader(tmp_path: Path) -> None:
    class Batches:
        def __init__(self) -> None:
            pictures, labels = images(30, seed=1)
            self.batches = list(zip(pictures.split(8), labels.split(8), strict=True))

        def __iter__(self) -> Any:
            return iter(self.batches)

        def __len__(self) -> int:
            return len(self.batches)

    heldout = convscope.HeldOut(size=20)
    assert_same_training(few(heldout=heldout), tmp_path, make=small, data=lambda: (loaders()[0], Batches()))
    assert torch.equal(heldout.inputs, images(30, seed=1)[0][:20])


def none_if_empty(batch: list[Any]) -> Any:
    kept = [sample for sample in batch if sample is not None]
    return default_collate(kept) if kept else None


def test_a_collate_function_that_gives_none_for_a_dropped_sample(tmp_path: Path, recwarn: Any) -> None:
    samples = [*zip(*images(30, seed=1), strict=True)]
    samples[4] = None  # type: ignore[call-overload]
    val = DataLoader(samples, 8, collate_fn=none_if_empty)  # type: ignore[arg-type]
    train(few(heldout=convscope.HeldOut(size=30)), tmp_path, make=small, data=lambda: (loaders()[0], val))
    said = [str(warning.message) for warning in recwarn if "left out" in str(warning.message)]
    assert said == [
        "convscope: 1 of 30 held-out samples cannot be read and are left out; the first: the collate function made no "
        "row of a held-out sample"
    ]


class TwoImages(Classifier):
    """A network of two images, which the loader's own collate function puts in a list."""

    def __init__(self) -> None:
        super().__init__(Plain(channels=3))

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return self.net(left) + self.net(right)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return F.cross_entropy(self(*batch[0]), batch[1])

    validation_step = training_step


def test_a_list_of_inputs_is_the_arguments_of_a_network_that_takes_several(tmp_path: Path) -> None:
    pictures, labels = images(30, seed=1)
    samples = [((image, image.flip(-1)), label) for image, label in zip(pictures, labels, strict=True)]
    loader = [DataLoader(samples, 8), DataLoader(samples, 8)]  # type: ignore[arg-type]
    observed = assert_same_training(few(layers=None), tmp_path, make=TwoImages, data=lambda: loader)
    assert {"probe/accuracy/net.conv1", "probe/accuracy/net.conv1@2"} <= set(observed.scalars)
