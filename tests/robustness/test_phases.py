"""Which errors may end a run: the user's mistakes, before training. Whatever else fails costs what it fails for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

import convscope
from tests.callbacks.conftest import Classifier, loaders
from tests.compatibility.cells import assert_same, small, train
from tests.networks import Plain, images


class EvenOnly(Plain):
    """Compares the two halves of its batch."""

    def __init__(self) -> None:
        super().__init__(channels=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = x.view(2, len(x) // 2, *x.shape[1:])
        return super().forward(torch.cat([first, second]))


class Unruly(Plain):
    """Raises in every forward in evaluation mode."""

    def __init__(self, error: Exception) -> None:
        super().__init__(channels=3)
        self.error = error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            raise self.error
        return super().forward(x)


class NoStatistics(nn.Module):
    """Normalises single values per channel by the batch's own statistics, in evaluation too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 8)
        self.norm = nn.BatchNorm2d(4, track_running_stats=False)
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.conv(x)).flatten(1))


class Listed(nn.ModuleList):
    """A net whose order is known to the training step alone."""

    def __init__(self) -> None:
        super().__init__([nn.Conv2d(3, 4, 3), nn.Linear(4, 3)])

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return self[1](self[0](x).mean((2, 3)))


class Mapped(nn.Module):
    """Runs its convolution through ``torch.vmap``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = torch.vmap(lambda one: torch.relu(self.conv(one[None]))[0])(x)
        return self.head(features.mean((2, 3)))


class Scripted(nn.Module):
    """Has TorchScript submodules, one of which never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
        self.idle = torch.jit.script(nn.Conv2d(4, 4, 1))
        self.conv, self.head = nn.Conv2d(4, 4, 3), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(self.stem(x))).mean((2, 3)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "even batches": EvenOnly,
    "a ValueError": lambda: Unruly(ValueError("the user's own")),
    "a TypeError": lambda: Unruly(TypeError("the user's own")),
    "a KeyError": lambda: Unruly(KeyError("the user's own")),
    "an AssertionError": lambda: Unruly(AssertionError()),
    "no running statistics": NoStatistics,
    "no forward": Listed,
    "vmap": Mapped,
    "TorchScript": Scripted,
}


class Stepwise(Classifier):
    """Runs its network in training alone."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        run = getattr(self.net, "run", self.net)
        return F.cross_entropy(run(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass


def made(network: str) -> Classifier:
    return Stepwise(NETWORKS[network]())


@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_that_cannot_be_run_on_the_heldout_set_trains_as_ever(network: str, tmp_path: Path) -> None:
    cell: dict[str, Any] = {"make": lambda: made(network), "data": lambda: loaders(val=32)}
    without = train([], tmp_path / "without", **cell)
    observed = train(convscope.suite("full", on_error="warn"), tmp_path / "with", **cell)
    assert_same(without, observed)


def test_a_network_that_cannot_be_run_is_reported_once_with_its_reason(tmp_path: Path, caplog: Any) -> None:
    train(convscope.suite("light"), tmp_path, make=lambda: made("a ValueError"))
    (said,) = [record for record in caplog.records if record.name == "convscope" and record.levelname == "ERROR"]
    reason = "RuntimeError: the network failed on held-out samples (ValueError: the user's own); if it takes"
    assert f"preparing the checks of probe, correlation failed ({reason}" in said.getMessage()
    assert "HeldOut(adapter=lambda batch: (inputs, targets))" in said.getMessage()  # what to do
    assert said.exc_info is not None


def test_on_error_raise_lets_it_through(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the user's own"):
        train([convscope.LayerProbe(on_error="raise")], tmp_path, make=lambda: made("a ValueError"))


class Samples(Dataset):
    """Validation samples; reading them by number one by one fails, as a file that is not there would."""

    def __init__(self, error: Exception | None = None) -> None:
        self.pictures, self.labels = images(30, seed=1)
        self.error, self.reads = error, 0

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> Any:
        self.reads += 1
        if self.error is not None and self.reads > 60:  # the sanity check is over
            raise self.error
        return self.pictures[number], self.labels[number]


class BadTargets(Samples):
    @property
    def targets(self) -> Any:
        raise RuntimeError("the labels' file is not there")


class BadDataModule(L.LightningDataModule):
    def train_dataloader(self) -> Any:
        return loaders()[0]

    def val_dataloader(self) -> Any:
        return loaders()[1]

    def heldout_dataloader(self) -> Any:
        raise FileNotFoundError("no held-out set here")


class OnlyOurs(Dataset):
    """Fails wherever it is read."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 30

    def __getitem__(self, number: int) -> Any:
        raise self.error


@pytest.mark.parametrize("error", [ValueError("a bad file"), TypeError("a bad type"), OSError("a bad disk")], ids=repr)
@pytest.mark.parametrize("size", [20, 64])
def test_a_data_set_that_fails_costs_the_checks_alone(error: Exception, size: int, tmp_path: Path, caplog: Any) -> None:
    heldout = convscope.HeldOut(OnlyOurs(error), size=size)
    done = train(convscope.suite("light", heldout=heldout), tmp_path, make=small)
    assert done.trainer.global_step == 8
    assert not any(name.startswith("probe") for name in done.scalars)
    assert str(error) in caplog.text


def test_a_targets_property_that_raises_is_not_asked_twice(tmp_path: Path) -> None:
    data = lambda: (loaders()[0], DataLoader(BadTargets(), 8))  # noqa: E731
    done = train([convscope.LayerProbe(heldout=convscope.HeldOut(size=20))], tmp_path, make=small, data=data)
    assert "probe/accuracy/output" in done.scalars


def test_a_heldout_loader_that_cannot_be_made_costs_the_checks_alone(tmp_path: Path, caplog: Any) -> None:
    done = train(convscope.suite("light"), tmp_path, make=small, data=BadDataModule)
    assert done.trainer.global_step == 8
    assert "no held-out set here" in caplog.text


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        yield from zip(*images(30, seed=1), strict=True)


def test_a_mistake_that_only_a_stream_shows_ends_no_run(tmp_path: Path, caplog: Any) -> None:
    data = lambda: (loaders()[0], DataLoader(Stream(), 8))  # noqa: E731
    callbacks = [
        convscope.LayerProbe(layers="nothing.*"),
        convscope.FilterCorrelation(heldout=convscope.HeldOut(size=9)),
    ]
    done = train(callbacks, tmp_path, make=small, data=data)
    assert done.trainer.global_step == 8
    assert "matches no layer" in caplog.text
    assert "correlation/mean_abs/net.conv1" in done.scalars


def bad_choice(name: str, module: nn.Module) -> bool:
    raise RuntimeError("the user's own choice")


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (
            lambda: convscope.LayerProbe(layers=bad_choice),
            r"layers: 'bad_choice' failed on layer 'net.conv1' \(RuntimeError: the user's own",
        ),
        (lambda: convscope.LayerProbe(layers="x*"), "'x\\*' matches no layer"),
        (lambda: convscope.LayerProbe(heldout=convscope.HeldOut(network="nett")), r"HeldOut\(network='nett'\)"),
        (
            lambda: convscope.LayerProbe(heldout=convscope.HeldOut((torch.ones(8, 3, 8, 8), torch.ones(8).long()))),
            "class",
        ),
        (lambda: convscope.RepresentationDrift(reference="nowhere.ckpt"), "reference|nowhere"),
    ],
)
def test_a_mistake_is_refused_before_training(callback: Any, message: str, tmp_path: Path) -> None:
    module = small()
    before = [parameter.clone() for parameter in module.parameters()]
    with pytest.raises(MisconfigurationException, match=message):
        train([convscope.FilterCorrelation(), callback()], tmp_path, make=lambda: module)
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


class WithScalars(Classifier):
    """Takes its inputs from a dict, with a number and a matrix that belong to no sample."""

    def __init__(self) -> None:
        super().__init__(Plain(channels=3))

    def forward(self, x: torch.Tensor, temperature: torch.Tensor, graph: torch.Tensor) -> torch.Tensor:
        assert temperature.dim() == 0
        assert graph.shape == (5, 5)
        return self.net(x) / temperature + graph.sum()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return F.cross_entropy(self(batch[0], torch.tensor(2.0), torch.eye(5)), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))


def test_inputs_that_are_no_samples_end_no_run(tmp_path: Path) -> None:
    def adapter(batch: Any) -> Any:
        return {"x": batch[0], "temperature": torch.tensor(2.0), "graph": torch.eye(5)}, batch[1]

    done = train([convscope.LayerProbe(heldout=convscope.HeldOut(adapter=adapter))], tmp_path, make=WithScalars)
    assert done.trainer.global_step == 8


class OneDimensional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(3, 4, 3), nn.Conv1d(4, 5, 3)
        self.head = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.second(torch.relu(self.first(x.flatten(2))))).mean(2))


class Patches(nn.Module):
    """A transformer's beginning: its only convolution cuts patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(self.patches(x).flatten(2).mT).mean(1))


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(192, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.first(x.flatten(1))))


class OneLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).flatten(1)


@pytest.mark.parametrize("network", [OneDimensional, Patches, OneLayer])
@pytest.mark.parametrize("layers", [None, "*"])
def test_a_member_of_a_suite_without_anything_to_measure_is_inactive(
    network: Any, layers: Any, tmp_path: Path, caplog: Any
) -> None:
    with caplog.at_level("INFO"):
        callbacks = convscope.suite("full", every_n_epochs=1, layers=layers)
        done = train(callbacks, tmp_path, make=lambda: Classifier(network()))
    assert any(name.startswith("probe/accuracy/net.") for name in done.scalars)
    assert any(name.startswith("correlation/") for name in done.scalars)
    assert done.scalars["zz_convscope/errors"] == 0
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_an_inactive_member_says_why(tmp_path: Path, caplog: Any) -> None:
    with caplog.at_level("INFO"):
        train(convscope.suite("full"), tmp_path, make=lambda: Classifier(OneDimensional()))
    said = "is inactive: it can measure none of the chosen layers: net.first, net.second"
    (message,) = [message for message in caplog.messages if said in message]
    assert "filter_pictures" in message.partition(said)[0]


def test_where_nothing_at_all_can_be_measured_the_user_is_told(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match=r"ran no convolution.*layers="):
        train(convscope.suite("full"), tmp_path, make=lambda: Classifier(Dense()))
    dense = convscope.suite("full", layers="net.*")
    done = train(dense, tmp_path, make=lambda: Classifier(Dense()))
    assert "probe/accuracy/net.first" in done.scalars
