"""The ways in which users run Lightning's loops: same training bit for bit, and the points that are to be expected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.tuner import Tuner
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import convscope
from tests.callbacks.conftest import Classifier, loaders
from tests.compatibility.cells import assert_same_training, few, small, train
from tests.networks import Plain, images


class Adversarial(L.LightningModule):
    """A GAN: manual optimisation, two optimizers, and a forward that is the generator's."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(
            nn.Linear(4, 4 * 16), nn.Unflatten(1, (4, 4, 4)), nn.ConvTranspose2d(4, 4, 2, 2), nn.ReLU(),
            nn.Conv2d(4, 3, 3, padding=1), nn.Tanh(),
        )  # fmt: skip
        self.discriminator = nn.Sequential(
            nn.Conv2d(3, 4, 3, 2),
            nn.LeakyReLU(0.2),
            nn.Conv2d(4, 6, 3),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(6, 1),
        )

    def forward(self, noise: torch.Tensor) -> torch.Tensor:
        return self.generator(noise)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        generating, judging = self.optimizers()
        real, fake = batch[0], self(torch.randn(len(batch[0]), 4))
        judged = F.softplus(-self.discriminator(real)).mean() + F.softplus(self.discriminator(fake.detach())).mean()
        self._step(judging, judged)
        self._step(generating, F.softplus(-self.discriminator(fake)).mean())
        self.log("d_loss", judged)

    def _step(self, optimizer: Any, loss: torch.Tensor) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.softplus(-self.discriminator(batch[0])).mean())

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(part.parameters()) for part in (self.generator, self.discriminator)]


def test_a_gan_in_manual_optimisation(tmp_path: Path) -> None:
    pictures, labels = images(30)
    judged = convscope.HeldOut((pictures, labels), network="discriminator")
    noise = convscope.HeldOut((torch.randn(30, 4, generator=torch.Generator().manual_seed(0)),), network="generator")
    given: dict[str, Any] = {"on_error": "raise", "pictures": False}
    probe = convscope.LayerProbe(heldout=judged, **given)
    correlation = convscope.FilterCorrelation(heldout=noise, every_n_epochs=0, every_n_train_steps=4, **given)
    found = assert_same_training([probe, correlation], tmp_path, make=Adversarial)
    assert found.trainer.global_step == 16  # counts both optimizers; the axis of the curves counts batches
    assert probe.history.steps == [0, 3, 7]
    assert correlation.history.steps == [0, 1, 3, 5, 7]  # every fourth optimizer step is every second batch
    assert {"probe/accuracy/discriminator.0", "probe/accuracy/discriminator.2"} <= found.scalars.keys()
    assert {"correlation/mean_abs/generator.2", "correlation/mean_abs/generator.4"} <= found.scalars.keys()


def test_a_network_that_is_not_there_is_named(fit: Any) -> None:
    heldout = convscope.HeldOut(images(30), network="critic")
    with pytest.raises(L.pytorch.utilities.exceptions.MisconfigurationException) as caught:
        fit([convscope.LayerProbe(heldout=heldout)], module=Adversarial())
    assert "network='critic'" in str(caught.value)
    assert "generator, discriminator" in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"val_check_interval": 0.5}, [0, 1, 3, 5, 7]),
        ({"val_check_interval": 3}, [0, 2, 6]),
        ({"val_check_interval": 3, "check_val_every_n_epoch": None}, [0, 2, 5]),
        ({"accumulate_grad_batches": 2}, [0, 1, 3]),
        ({"accumulate_grad_batches": 3}, [0, 1, 3]),
        ({"limit_train_batches": 3, "limit_val_batches": 2}, [0, 2, 5]),
        ({"overfit_batches": 2}, [0, 1, 3]),
        ({"num_sanity_val_steps": 0}, [0, 3, 7]),
        ({"reload_dataloaders_every_n_epochs": 1}, [0, 3, 7]),
        ({"gradient_clip_val": 0.1, "max_steps": 6, "max_epochs": -1}, [0, 3]),  # ends without a validation
        ({"limit_val_batches": 0}, [0, 3, 7]),
        ({"fast_dev_run": True}, [0, 0]),
    ],
    ids=str,
)
def test_trainer_arguments(arguments: dict[str, Any], expected: list[int], tmp_path: Path) -> None:
    callbacks = few()
    assert_same_training(callbacks, tmp_path, make=small, **arguments)
    assert callbacks[0].history.steps == expected


class Endless(IterableDataset):
    """A stream without a length."""

    def __init__(self, samples: int, seed: int) -> None:
        self.samples, self.seed = samples, seed

    def __iter__(self) -> Any:
        yield from zip(*images(self.samples, seed=self.seed), strict=True)


def test_iterable_datasets_for_training_and_validation(tmp_path: Path) -> None:
    callbacks = few()
    streams = lambda: (DataLoader(Endless(32, 0), 8), DataLoader(Endless(30, 1), 8))  # noqa: E731
    assert_same_training(callbacks, tmp_path, make=small, data=streams)
    assert callbacks[0].history.steps == [3, 7]  # nothing can be read before the first validation


def test_an_endless_training_stream_that_is_cut_by_steps(tmp_path: Path) -> None:
    callbacks = few()
    streams = lambda: (DataLoader(Endless(80, 0), 8), loaders()[1])  # noqa: E731
    arguments = {"max_steps": 6, "max_epochs": -1, "val_check_interval": 2}
    assert_same_training(callbacks, tmp_path, make=small, data=streams, **arguments)
    assert callbacks[0].history.steps == [0, 1, 3, 5]


class SeveralSets(Classifier):
    def __init__(self) -> None:
        super().__init__(Plain(channels=3))

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))


@pytest.mark.parametrize("container", [list, lambda two: dict(zip("ab", two, strict=True))], ids=["list", "dict"])
@pytest.mark.parametrize("streamed", [False, True])
def test_the_first_of_several_validation_loaders_is_the_heldout_set(
    container: Any, streamed: bool, tmp_path: Path
) -> None:
    def data() -> Any:
        sets = [Endless(30, 1), Endless(24, 2)] if streamed else [TensorDataset(*images(n, seed=n)) for n in (30, 24)]
        return loaders()[0], container([DataLoader(each, 8) for each in sets])

    heldout = convscope.HeldOut()
    assert_same_training(few(heldout=heldout), tmp_path, make=SeveralSets, data=data)
    assert heldout.total == 30
    assert torch.equal(heldout.inputs, images(30, seed=1 if streamed else 30)[0])


def test_validate_and_test_alone_neither_observe_nor_change_anything(tmp_path: Path) -> None:
    class Tested(Classifier):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.log("test_loss", F.cross_entropy(self(batch[0]), batch[1]))

    results = []
    for callbacks in ([], [*few(), convscope.LayerTable(), convscope.DriftAlert()]):
        L.seed_everything(0, verbose=False)
        module = Tested(Plain(channels=3))
        trainer = L.Trainer(callbacks=callbacks, logger=False, enable_progress_bar=False, accelerator="cpu")
        found = [run(module, loaders()[1], verbose=False) for run in (trainer.validate, trainer.test)]
        trainer.predict(module, DataLoader(images(8)[0], 4))
        results.append((found, torch.get_rng_state().tolist()))
    assert results[0] == results[1]


def test_fit_twice_with_a_validation_and_a_test_between(tmp_path: Path) -> None:
    callbacks = few()
    done = train(callbacks, tmp_path, make=small)
    done.trainer.validate(done.module, loaders()[1], verbose=False)
    done.trainer.fit_loop.max_epochs = 3
    done.trainer.fit(done.module, *loaders())
    assert callbacks[0].history.steps == [0, 3, 7, 11]


class Data(L.LightningDataModule):
    """Has a batch size that can be searched for."""

    batch_size = 4

    def train_dataloader(self) -> Any:
        return loaders(batch_size=self.batch_size)[0]

    def val_dataloader(self) -> Any:
        return loaders()[1]


def tuned(callbacks: list[Any], folder: Path, method: str) -> tuple[Any, Any]:
    L.seed_everything(3, verbose=False)

    module, data = small(), Data()
    trainer = L.Trainer(
        max_epochs=2, callbacks=callbacks, logger=False, enable_progress_bar=False, accelerator="cpu",
        default_root_dir=folder, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    tuner = Tuner(trainer)
    if method == "lr_find":
        tuner.lr_find(module, datamodule=data, num_training=10, min_lr=1e-3, max_lr=0.1)
    else:
        tuner.scale_batch_size(module, datamodule=data, max_trials=2, steps_per_trial=1, init_val=4)
    trainer.fit(module, datamodule=data)
    return [p.detach().clone() for p in module.parameters()], (module.lr, data.batch_size, trainer.global_step)


@pytest.mark.parametrize("method", ["lr_find", "scale_batch_size"])
def test_inside_lightnings_tuner(method: str, tmp_path: Path) -> None:
    callbacks = few()
    without, chosen = tuned([], tmp_path, method)
    observed, again = tuned(callbacks, tmp_path, method)
    assert chosen == again
    assert all(map(torch.equal, without, observed))
    last = chosen[2] - 1
    assert callbacks[0].history.steps == [0, last // 2, last]  # the real fit alone


@pytest.mark.parametrize(
    "finder",
    [lambda: LearningRateFinder(num_training_steps=10), lambda: BatchSizeFinder(max_trials=2, steps_per_trial=1)],
    ids=["LearningRateFinder", "BatchSizeFinder"],
)
def test_with_lightnings_finders_as_callbacks(finder: Any, tmp_path: Path) -> None:
    without = train([finder()], tmp_path, make=small, data=Data)
    callbacks = few()
    observed = train([finder(), *callbacks], tmp_path, make=small, data=Data)
    assert [torch.equal(a, b) for a, b in zip(*(d.module.parameters() for d in (without, observed)), strict=True)]
    assert without.outcome["global_step"] == observed.outcome["global_step"]
    assert callbacks[0].history.epochs == [0, 1, 2]
