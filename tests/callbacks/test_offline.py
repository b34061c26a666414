"""Replay of checkpoints, and the check of one network: the numbers of a live run, and nothing changed."""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import convscope
from convscope.dashboard import Run, read_run
from tests.callbacks.conftest import Classifier, loaders
from tests.networks import TinyResNet, images

LOSS = {"metric": "val_loss", "detector": {"kind": "threshold", "limit": 0.0}}
RULES: list[Any] = [{"name": "high", "message": "loss {value:.4f}", "when": [LOSS]}]


class Saving(Classifier):
    """Saves its arguments, and does things in training that a replay must not do."""

    def __init__(self, width: int = 4) -> None:
        super().__init__(TinyResNet(width, classes=3))
        self.save_hyperparameters()

    def on_train_epoch_start(self) -> None:
        if not self.trainer.optimizers:
            raise AssertionError("a training hook was called in a replay")


class Data(L.LightningDataModule):
    """Loaders of small images."""

    def train_dataloader(self) -> Any:
        return loaders()[0]

    def val_dataloader(self) -> Any:
        return loaders()[1]


class Save(L.Callback):
    """Saves before training and once per epoch, at different moments of the loop."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.save_checkpoint(self.folder / "start.ckpt")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking and trainer.current_epoch == 0:
            trainer.save_checkpoint(self.folder / "z.ckpt")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == 1:
            trainer.save_checkpoint(self.folder / "a.ckpt")


def watched() -> list[Any]:
    return [
        convscope.LayerProbe(), convscope.FilterImportance(), convscope.FilterCorrelation(), convscope.FilterHealth(),
        convscope.RepresentationDrift(), convscope.LayerPrediction(examples=2), convscope.DriftAlert(RULES),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """A run of three epochs, and the folder of its checkpoints: of the start, in and after an epoch, of the end."""
    folder = tmp_path_factory.mktemp("live")
    L.seed_everything(1)
    trainer = L.Trainer(
        max_epochs=3, logger=TensorBoardLogger(folder, name="run"), accelerator="cpu", enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[*watched(), Save(folder / "ckpt")],
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(Saving(), datamodule=Data())
        trainer.save_checkpoint(folder / "ckpt" / "last.ckpt")
        trainer.save_checkpoint(folder / "ckpt" / "end.ckpt")
    return read_run(trainer.log_dir), folder / "ckpt"


def assert_equal(one: Run, other: Run) -> None:
    assert (one.steps, one.triggers, one.layers) == (other.steps, other.triggers, other.layers)
    assert one.epochs.tolist() == other.epochs.tolist()
    assert one.families == other.families
    for family in one.families:
        assert one.quantities(family) == other.quantities(family)
        for quantity in one.quantities(family):
            np.testing.assert_allclose(
                one.values(family, quantity), other.values(family, quantity), rtol=1e-6, atol=1e-6,
                err_msg=f"{family}/{quantity}",
            )  # fmt: skip
        for layer in one.layers_with_filters(family):
            np.testing.assert_allclose(one.filters(family, layer), other.filters(family, layer), rtol=1e-6, atol=1e-6)
        for layer in one.layers_with_correlation(family):
            for check in range(len(one.steps)):
                mine, theirs = one.correlation(family, layer, check), other.correlation(family, layer, check)
                assert mine is not None
                assert theirs is not None
                np.testing.assert_allclose(mine.matrix, theirs.matrix, atol=1e-6)


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_a_replay_gives_what_the_run_gave(live: tuple[Run, Path], tmp_path: Path) -> None:
    run, folder = live
    replayed = convscope.replay(
        folder, Saving, Data(), callbacks=watched(), folder=tmp_path / "replay", accelerator="cpu"
    )
    assert replayed.steps == [0, 3, 7, 11]
    assert_equal(run, replayed)
    assert [one["message"] for one in replayed.incidents] == [one["message"] for one in run.incidents]
    assert replayed.array("prediction", "probability").tolist() == run.array("prediction", "probability").tolist()
    expected, found = scalars(run.folder), scalars(replayed.folder)
    assert set(expected) - {"train_loss"} == set(found)
    for tag in [tag for tag in found if tag != "epoch" and not tag.startswith("zz_convscope/")]:
        assert [step for step, _ in found[tag]] == [step for step, _ in expected[tag]], tag
        np.testing.assert_allclose([v for _, v in found[tag]], [v for _, v in expected[tag]], rtol=1e-5, err_msg=tag)


def test_a_replay_of_the_full_suite_gives_what_the_run_gave(tmp_path: Path) -> None:
    def full() -> list[Any]:
        return convscope.suite("full", heldout=convscope.HeldOut(size=16), every_n_epochs=1, max_layers=2)

    L.seed_everything(1)
    trainer = L.Trainer(
        max_epochs=1, logger=TensorBoardLogger(tmp_path, name="run"), accelerator="cpu", enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[*full(), Save(tmp_path / "ckpt")],
    )  # fmt: skip
    trainer.fit(Saving(), datamodule=Data())
    run = read_run(trainer.log_dir)
    replayed = convscope.replay(
        tmp_path / "ckpt", Saving, Data(), callbacks=full(), folder=tmp_path / "replay", accelerator="cpu"
    )
    assert len(run.families) >= 15
    assert_equal(run, replayed)
    for family in run.families:
        for name in run.arrays(family):
            assert np.array_equal(run.array(family, name), replayed.array(family, name)), (family, name)
    assert run.pictures == replayed.pictures


def test_an_interrupted_replay_goes_on(live: tuple[Run, Path], tmp_path: Path) -> None:
    class Stop(L.Callback):
        left = 2

        def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            self.left -= 1
            if self.left == 0:
                raise InterruptedError("the machine went away")

    run, folder = live
    stop, target = Stop(), tmp_path / "replay"
    with pytest.raises(InterruptedError):
        convscope.replay(folder, Saving(), Data(), callbacks=[*watched(), stop], folder=target, accelerator="cpu")
    assert read_run(target).steps == [0, 3]
    replayed = convscope.replay(
        folder, Saving(), Data(), callbacks=[*watched(), stop], folder=target, accelerator="cpu"
    )
    assert_equal(run, replayed)
    before = {path: path.stat().st_mtime_ns for path in target.iterdir()}
    again = convscope.replay(folder, Saving(), Data(), callbacks=[*watched(), stop], folder=target, accelerator="cpu")
    assert again.steps == run.steps
    assert {path: path.stat().st_mtime_ns for path in target.iterdir()} == before


def test_what_cannot_be_used_is_passed_over(
    live: tuple[Run, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, folder = live
    (tmp_path / "cut.ckpt").write_bytes((folder / "a.ckpt").read_bytes()[:5000])
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    torch.save({"weights": 1}, tmp_path / "other.ckpt")
    content = torch.load(folder / "a.ckpt", weights_only=True)
    content["state_dict"].pop("net.conv1.weight")
    content["global_step"] = 5
    torch.save(content, tmp_path / "less.ckpt")
    paths = [*tmp_path.glob("*.ckpt"), folder / "z.ckpt"]
    run = convscope.replay(
        paths, Saving(), loaders()[1], callbacks=[convscope.LayerProbe()], folder=tmp_path / "r", accelerator="cpu"
    )
    assert run.steps == [3]
    told = [record.getMessage() for record in caplog.records if "passed over" in record.getMessage()]
    assert len(told) == 4
    assert any("cut.ckpt cannot be read" in line for line in told)
    assert any("other.ckpt is no Lightning checkpoint" in line for line in told)
    assert any("less.ckpt does not fit Saving: 1 of its weights are missing, 0 are unknown" in line for line in told)


def test_mistakes_are_told_in_one_sentence(live: tuple[Run, Path], tmp_path: Path) -> None:
    run, folder = live
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="there is no such folder; give the one with Lightning's"):
        convscope.replay(tmp_path / "nowhere", Saving)
    with pytest.raises(ValueError, match="there are no checkpoints here"):
        convscope.replay(tmp_path / "empty", Saving)
    with pytest.raises(ValueError, match="holds the record of another run: give a new folder"):
        convscope.replay(folder, Saving(), Data(), folder=run.folder)
    target: dict[str, Any] = {"folder": tmp_path / "r", "accelerator": "cpu", "callbacks": "light"}
    with pytest.raises(ValueError, match=r"no checkpoint can be used: .*does not fit Classifier: .*the first: net"):
        convscope.replay(folder, Classifier(TinyResNet(8, classes=3)), Data(), **target)

    class Needy(Saving):
        def __init__(self, width: int, other: int) -> None:
            super().__init__(width)

    with pytest.raises(ValueError, match=r"Needy cannot be built from the checkpoint's hyper_parameters \(width\)"):
        convscope.replay(folder, Needy, Data(), **target)
    (tmp_path / "bad.ckpt").write_text("x")
    with pytest.raises(ValueError, match=r"no checkpoint can be used: .*bad.ckpt cannot be read"):
        convscope.replay(tmp_path / "bad.ckpt", Saving, Data(), **target)


def test_a_module_is_itself_again_after_a_replay(live: tuple[Run, Path], tmp_path: Path) -> None:
    _, folder = live
    module, data = Saving(), Data()
    before = set(vars(module)), set(vars(data))
    convscope.replay(folder / "z.ckpt", module, data, callbacks="light", folder=tmp_path / "r", accelerator="cpu")
    assert module.automatic_optimization
    assert {"training_step", "configure_optimizers", "train_dataloader"} & (
        set(vars(module)) | set(vars(data))
    ) == set()
    assert set(vars(module)) - before[0] <= {"_trainer", "trainer"}
    weights = torch.load(folder / "z.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(tensor, weights[name]) for name, tensor in module.state_dict().items())


# One network.


def state(model: nn.Module) -> tuple[Any, ...]:
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()]
    grads = [(p.requires_grad, id(p.grad)) for p in model.parameters()]
    return tensors, [m.training for m in model.modules()], hooks, grads, set(vars(model))


def test_one_network_without_a_trainer_is_measured_and_left_as_it_was() -> None:
    torch.manual_seed(0)
    model = TinyResNet(4, classes=3)
    model.conv1.eval()
    model.conv1.weight.requires_grad_(False)
    model(images(4)[0]).sum().backward()
    before, streams = state(model), (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())
    run = convscope.check(model, images(30, seed=1))
    after = state(model)
    assert after[1:] == before[1:]
    assert all(torch.equal(tensor, after[0][name]) for name, tensor in before[0].items())
    assert torch.equal(torch.get_rng_state(), streams[0])
    assert random.getstate() == streams[1]
    assert (np.random.get_state()[1] == streams[2]).all()
    assert torch.is_grad_enabled()
    assert run.layers[:2] == ["conv1", "layer1.0.conv1"]
    assert (run.triggers, run.families[:2]) == (["start"], ["probe", "importance"])
    assert np.isfinite(run.values("probe", "accuracy")).all()


def test_a_check_gives_what_a_run_gives_at_its_start(live: tuple[Run, Path]) -> None:
    run, folder = live
    module = Saving()
    module.load_state_dict(torch.load(folder / "start.ckpt", weights_only=True)["state_dict"])
    for model, prefix in ((module, ""), (module.net, "net.")):
        found = convscope.check(model, Data().val_dataloader(), callbacks=[convscope.LayerProbe()])
        assert [prefix + name for name in found.layers if name != "output"] == run.layers[:-1]
        np.testing.assert_allclose(found.values("probe", "accuracy")[0], run.values("probe", "accuracy")[0], rtol=1e-6)


@pytest.mark.parametrize("block", [torch.no_grad, torch.inference_mode])
def test_a_check_measures_gradients_also_where_they_are_switched_off(block: Any) -> None:
    model = TinyResNet(4, classes=3)
    expected = convscope.check(model, images(20), callbacks=[convscope.FilterImportance()])
    with block():
        run = convscope.check(model, images(20), callbacks=[convscope.FilterImportance()])
        assert not torch.is_grad_enabled()
    np.testing.assert_array_equal(run.values("importance", "gini"), expected.values("importance", "gini"))


def test_a_compiled_network_has_the_layers_of_its_original() -> None:
    model = TinyResNet(4, classes=3)
    run = convscope.check(torch.compile(model, backend="eager"), images(20), callbacks="light")
    assert run.layers == convscope.check(model, images(20), callbacks="light").layers


def test_a_checks_record_stays_where_it_was_put(tmp_path: Path) -> None:
    run = convscope.check(TinyResNet(4, classes=3), images(20), callbacks="light", folder=tmp_path)
    assert tmp_path in run.folder.parents
    assert read_run(tmp_path).steps == run.steps
    temporary = convscope.check(TinyResNet(4, classes=3), images(20), callbacks="light")
    folder = temporary.folder
    assert folder.exists()
    del temporary
    assert not folder.exists()


def test_a_check_needs_samples() -> None:
    with pytest.raises(ValueError, match=r"heldout=None: give samples with labels"):
        convscope.check(TinyResNet(4, classes=3))
    with pytest.raises(ValueError, match=r"model=.resnet18.: give a torch.nn.Module"):
        convscope.check("resnet18", images(20))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no check was made"):
        convscope.check(TinyResNet(4), images(20), callbacks=[convscope.LayerProbe(on_start=False)])
