"""Held-out samples read in the validation: the numbers of a pass, no trace, and a reason where it cannot be."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import WeightAveraging
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import convscope
from convscope.callbacks.engine import measuring
from tests.callbacks.conftest import Classifier, Run, loaders
from tests.capture.test_isolation import same
from tests.networks import images

CANNOT = "HeldOut(during_validation=True) cannot be done here: "


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A list that grows with every pass of a check's own, which runs as always."""
    original, calls = measuring.run_pass, list[Any]()

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(measuring, "run_pass", counted)
    return calls


def callbacks(during: bool = True, **heldout: Any) -> list[L.Callback]:
    arguments = {"size": 20, "batch_size": 6, **heldout, "during_validation": during}
    shared = convscope.HeldOut(**arguments)
    kinds = (convscope.LayerProbe, convscope.FilterCorrelation, convscope.RepresentationDrift)
    return [kind(heldout=shared, on_error="raise", curves="all", pictures=False) for kind in kinds]


def scalars(run: Run) -> dict[str, list[float]]:
    events = run.events
    tags = [tag for tag in events.Tags()["scalars"] if "/" in tag and not tag.startswith("zz_")]
    return {tag: [event.value for event in events.Scalars(tag)] for tag in tags}


Fit = Callable[..., Run]


def both(fit: Fit, make: Callable[[], L.LightningModule], **arguments: Any) -> tuple[Run, Run]:
    runs = []
    for during in (True, False):
        torch.manual_seed(0)
        runs.append(fit(callbacks(during), module=make(), max_epochs=2, **arguments))
    return runs[0], runs[1]


def assert_same_numbers(free: Run, own: Run) -> None:
    found, expected = scalars(free), scalars(own)
    assert found.keys() == expected.keys()
    assert len(expected) > 10
    for tag, values in expected.items():
        # CKA is of features in half precision: of 20 samples, one that is rounded the other way moves it by 1e-4.
        assert found[tag] == pytest.approx(values, rel=1e-5, abs=1e-4 if "/cka_" in tag else 1e-5), tag


def test_a_validation_gives_the_numbers_of_a_pass(fit: Fit, passes: list[Any]) -> None:
    free, own = both(fit, Classifier, data=loaders(val=30, batch_size=7))
    assert len(passes) == 1 + 3  # with it the check at the start alone
    assert_same_numbers(free, own)
    assert free.curve("zz_convscope/seconds")[-1][1] > 0


def test_training_is_bitwise_the_same_where_it_is_done(fit: Fit, passes: list[Any]) -> None:
    weights = []
    for watching in ([], callbacks()):
        torch.manual_seed(0)
        run = fit(watching, max_epochs=2, deterministic=True)
        weights.append([run.module.state_dict(), run.trainer.optimizers[0].state_dict(), torch.get_rng_state()])
        weights[-1].append([value for _, value in run.curve("val_loss")])
        hooks = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in run.module.modules()]
        assert sum(hooks) == 0
    assert len(passes) == 1
    assert same(*weights)


class Several(Dataset):
    """Images of which every pair is the same, with different labels."""

    def __init__(self) -> None:
        self.images, self.labels = images(24)
        self.images[1::2] = self.images[::2]

    def __len__(self) -> int:
        return 24

    def __getitem__(self, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.images[place], self.labels[place]


def test_equal_images_keep_labels_of_their_own(fit: Fit, passes: list[Any]) -> None:
    data = loaders()[0], DataLoader(Several(), 8)
    assert_same_numbers(*both(fit, Classifier, data=data))
    assert len(passes) == 1 + 3


def test_a_shuffled_validation_will_do(fit: Fit, passes: list[Any]) -> None:
    data = loaders()[0], DataLoader(TensorDataset(*images(30, seed=1)), 8, shuffle=True)
    assert_same_numbers(*both(fit, Classifier, data=data))
    assert len(passes) == 1 + 3


def test_several_calls_and_loaders_will_do(fit: Fit, passes: list[Any]) -> None:
    class Twice(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            x = torch.cat([batch[0].flip(-1), batch[0]])
            self.log("val_loss", F.cross_entropy(self(x), batch[1].repeat(2)) + self(batch[0]).mean())

    data = loaders()[0], [loaders()[1], loaders()[1]]
    assert_same_numbers(*both(fit, Twice, data=data))
    assert len(passes) == 1 + 3


class Noisy(Dataset):
    """Images with other noise each time."""

    def __len__(self) -> int:
        return 30

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        return torch.randn(3, 8, 8), place % 3


class Shifted(Classifier):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0] * 2), batch[1]))


class AroundIt(Classifier):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self.net(batch[0]), batch[1]))


class InTraining(Classifier):
    def on_validation_model_eval(self) -> None:
        self.net.layer2.eval()


class OtherPrecision(Classifier):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))


class Draws(Classifier):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x) + 0.01 * torch.randn(3)


class Counts(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.net(x)


class WholeBatch(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.net.bn1 = nn.BatchNorm2d(4, track_running_stats=False)


class OtherWeights(Classifier):
    def on_validation_epoch_start(self) -> None:
        self._kept = self.net.conv1.weight.data
        self.net.conv1.weight.data = self._kept * 0.9

    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 3:  # the last
            self.net.conv1.weight.data = self._kept


class Attends(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x) + self.attention(x.mean(1)).mean((1, 2))[:, None]


class Looks(Classifier):
    """A network that computes in another way where it is observed."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x) * (1.001 if self.net.conv1._forward_hooks else 1.0)


class Compiled(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.compile(self.net, backend="eager")


CASES: dict[str, tuple[Callable[[], L.LightningModule], str]] = {
    "another input": (Shifted, "validation_step did not give the network the held-out samples"),
    "another module": (AroundIt, "validation_step did not give the network the held-out samples"),
    "training mode": (InTraining, "in training mode"),
    "precision": (OtherPrecision, "in another precision"),
    "random numbers": (Draws, "draws random numbers"),
    "state": (Counts, "weights or buffers"),
    "statistics of the batch": (WholeBatch, "activations in validation are not those"),
    "other weights": (OtherWeights, "activations in validation are not those"),
    "compiled": (Compiled, "is compiled"),
    "attention": (Attends, "attention layers"),
    "a network that looks": (Looks, "observing the network changes its results"),
}


@pytest.mark.parametrize("name", CASES)
def test_where_it_cannot_be_done_a_pass_is_made(
    fit: Fit, passes: list[Any], caplog: pytest.LogCaptureFixture, name: str
) -> None:
    make, reason = CASES[name]
    with caplog.at_level(logging.INFO):
        fit(callbacks(), module=make(), max_epochs=2, num_sanity_val_steps=0)
    said = [record.message for record in caplog.records if CANNOT in record.message]
    assert len(said) == 1
    assert reason in said[0]
    assert len(passes) == 3


@pytest.mark.parametrize(
    ("data", "arguments", "reason"),
    [
        ((loaders()[0], DataLoader(Noisy(), 8)), {}, "validation_step did not give the network"),
        (loaders(), {"limit_val_batches": 2}, "validation ran"),
    ],
    ids=["noise", "limit_val_batches"],
)
def test_samples_that_validation_does_not_run(
    fit: Fit, passes: list[Any], caplog: pytest.LogCaptureFixture, data: Any, arguments: Any, reason: str
) -> None:
    with caplog.at_level(logging.INFO):
        fit(callbacks(), data=data, max_epochs=2, **arguments)
    said = [record.message for record in caplog.records if CANNOT in record.message]
    assert len(said) == 1
    assert reason in said[0]
    assert len(passes) == 3


@pytest.mark.parametrize("last", [True, False])
def test_averaged_weights_are_not_measured(
    fit: Fit, passes: list[Any], caplog: pytest.LogCaptureFixture, last: bool
) -> None:
    averaging = WeightAveraging()
    with caplog.at_level(logging.INFO):
        fit([*callbacks(), averaging] if last else [averaging, *callbacks()], max_epochs=2)
    assert len([record for record in caplog.records if CANNOT in record.message]) == 1
    assert len(passes) == 3


def test_gradients_take_a_pass_which_all_share(fit: Fit, passes: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    mine = callbacks()
    importance = convscope.FilterImportance(heldout=mine[0].heldout, every_n_epochs=2, on_error="raise", pictures=False)
    with caplog.at_level(logging.INFO):
        fit([*mine, importance], max_epochs=4)
    assert len(passes) == 3  # at the start, and in two epochs of four
    assert sum("importance need gradients" in record.message for record in caplog.records) == 1


def test_a_validation_that_fails_leaves_nothing_behind(fit: Fit) -> None:
    class Fails(Classifier):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.trainer.validating and self.trainer.current_epoch == 1:
                self.net(x)
                raise ArithmeticError("a mistake in validation")
            return self.net(x)

    module = Fails()
    with pytest.raises(ArithmeticError, match="a mistake in validation"):
        fit(callbacks(), module=module, max_epochs=3)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    assert torch.overrides._len_torch_function_stack() == 0


class Saves(Classifier):
    """A user who keeps the whole module whenever a validation goes well."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        file, trainer = io.BytesIO(), self._trainer
        self._trainer = None
        torch.save(self, file)
        self._trainer = trainer
        file.seek(0)
        again = torch.load(file, weights_only=False)
        assert torch.equal(again(batch[0]), self(batch[0]))


def test_the_module_can_be_saved_in_validation(fit: Fit, passes: list[Any]) -> None:
    fit(callbacks(), module=Saves(), max_epochs=1)
    assert len(passes) == 1


def test_half_precision(fit: Fit, passes: list[Any]) -> None:
    free, own = both(fit, Classifier, precision="bf16-mixed", data=loaders(val=30, batch_size=7))
    assert len(passes) == 1 + 3
    found, expected = scalars(free), scalars(own)
    assert found["correlation/mean_abs/net.conv1"] == pytest.approx(
        expected["correlation/mean_abs/net.conv1"], rel=0.02
    )
