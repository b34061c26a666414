"""``pytorch_lightning`` is the older import name of the same package: what works under one name works under both."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.tensorboard import SummaryWriter

import convscope
from convscope.callbacks.engine import bridge
from convscope.callbacks.parts.layer_observer import LayerObserver
from tests.networks import images
from tests.support.namespaces import MODELS, NAMES, both_names, fit, submodule

KINDS = ("scalars", "images", "histograms", "tensors")
PUBLIC = [getattr(convscope, name) for name in convscope.__all__]
CLASSES = [kind for kind in PUBLIC if inspect.isclass(kind) and not inspect.isabstract(kind)]
CALLBACKS = [kind for kind in CLASSES if issubclass(kind, lightning.pytorch.Callback)]
CLOCKS = ("zz_convscope/seconds", "zz_convscope/overhead")


def events(trainer: Any) -> EventAccumulator:
    return EventAccumulator(trainer.logger.log_dir, size_guidance=dict.fromkeys(KINDS, 0)).Reload()


def curves(trainer: Any) -> dict[str, list[tuple[int, float]]]:
    found = events(trainer)
    tags = [tag for tag in found.Tags()["scalars"] if tag not in CLOCKS]
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in tags}


def everything() -> list[Any]:
    observers = convscope.suite("full", on_error="raise", every_n_epochs=1, heldout=convscope.HeldOut(size=24))
    return [*observers, convscope.LayerTable(), convscope.DriftAlert()]


def test_event_files_under_both_names_hold_the_same_numbers_pictures_and_texts(tmp_path: Path, caplog: Any) -> None:
    runs = [fit(name, tmp_path / name, everything()) for name in NAMES]
    new, old = map(events, runs)
    assert "no logger takes pictures" not in caplog.text
    assert len(new.Tags()["images"]) > 10
    assert all(new.Tags()[kind] == old.Tags()[kind] for kind in KINDS)
    assert curves(runs[0]) == curves(runs[1])
    assert any(tag.startswith("probe/accuracy/") for tag in curves(runs[1]))


@both_names
def test_every_callback_is_a_callback_of_both(name: str) -> None:
    base = sys.modules[name].Callback
    assert CALLBACKS
    assert [kind for kind in CALLBACKS if not issubclass(kind, base)] == []
    trainer = sys.modules[name].Trainer(callbacks=convscope.LayerTable(), logger=False, enable_checkpointing=False)
    assert any(isinstance(callback, convscope.LayerTable) for callback in trainer.callbacks)


@pytest.mark.parametrize("first", ["convscope", "pytorch_lightning"])
def test_the_order_of_imports_does_not_matter(first: str) -> None:
    second = {"convscope": "pytorch_lightning", "pytorch_lightning": "convscope"}[first]
    program = (
        f"import {first}, {second}, lightning.pytorch as new, pytorch_lightning as old, convscope\n"
        "class Mine(convscope.LayerProbe): pass\n"
        "assert issubclass(Mine, new.Callback) and issubclass(Mine, old.Callback)\n"
        "assert issubclass(convscope.DriftAlert, old.Callback) and old.Trainer(callbacks=convscope.LayerTable())\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_convscope_does_not_import_the_older_name_itself() -> None:
    program = "import sys, convscope; assert 'pytorch_lightning' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


@both_names
def test_values_can_be_followed_and_a_run_resumed(name: str, tmp_path: Path) -> None:
    callbacks = submodule(name, "callbacks")

    def watched(folder: Path) -> list[Any]:
        stopping = callbacks.EarlyStopping(monitor="probe/accuracy/net.conv1", mode="max", patience=9)
        best = callbacks.ModelCheckpoint(folder, monitor="probe/accuracy/net.conv1", mode="max", save_last=True)
        return [*convscope.suite("standard", on_error="raise"), convscope.DriftAlert(), stopping, best]

    def go(folder: Path, epochs: int, ckpt_path: Any = None) -> Any:
        return fit(name, folder, watched(folder), ckpt_path, max_epochs=epochs, enable_checkpointing=True)

    whole = go(tmp_path / "whole", 3)
    assert whole.checkpoint_callback.best_model_score == whole.early_stopping_callback.best_score
    go(tmp_path / "halves", 2)
    resumed = go(tmp_path / "halves", 3, tmp_path / "halves/last.ckpt")
    assert resumed.callbacks[0].history.state_dict() == whole.callbacks[0].history.state_dict()
    assert resumed.callbacks[1].history.epochs == [0, 1, 2, 3]
    tags = [tag for tag in curves(whole) if tag.startswith(("probe/", "importance/"))]
    assert {tag: curves(resumed)[tag][-1] for tag in tags} == {tag: curves(whole)[tag][-1] for tag in tags}


@pytest.mark.parametrize(("saved", "loaded"), [NAMES, NAMES[::-1]])
def test_a_checkpoint_of_one_name_resumes_under_the_other(saved: str, loaded: str, tmp_path: Path) -> None:
    fit(saved, tmp_path, convscope.suite("light", on_error="raise")).save_checkpoint(tmp_path / "a.ckpt")
    callbacks = convscope.suite("light", on_error="raise")
    fit(loaded, tmp_path, callbacks, tmp_path / "a.ckpt", max_epochs=3)
    assert callbacks[0].history.epochs == [0, 1, 2, 3]


@both_names
def test_the_module_without_forward_is_seen_through_and_two_networks_are_asked_about(name: str, tmp_path: Path) -> None:
    module = MODELS[name]()
    module.second = nn.Linear(2, 2)
    refusal = submodule(name, "utilities.exceptions").MisconfigurationException
    with pytest.raises(refusal, match=r"has no forward\(\) and 2 submodules.*HeldOut\(network="):
        fit(name, tmp_path, [convscope.LayerProbe()], module=module)


@both_names
def test_spawned_processes_come_back(name: str, tmp_path: Path) -> None:
    launchers = submodule(name, "strategies.launchers.multiprocessing")
    trainer = fit(name, tmp_path, convscope.suite("light"), max_epochs=1)
    trainer.strategy._launcher = launchers._MultiProcessingLauncher(trainer.strategy, start_method="fork")
    bridge.keep_from_main_process(trainer, ["probe/accuracy/net.conv1"])
    assert "probe/accuracy/net.conv1" not in trainer.callback_metrics
    assert "probe/accuracy/net.conv2" in trainer.callback_metrics


FORKED = """
import sys
from pathlib import Path
import convscope
from tests.networks import TinyResNet
from tests.support.namespaces import MODELS, fit
name, folder = sys.argv[1:]
module = MODELS[name](TinyResNet(4, classes=3))
callbacks = convscope.suite("full", on_error="raise", every_n_epochs=1, pictures=False)
trainer = fit(name, Path(folder), callbacks, module=module, strategy="ddp_fork", devices=2, max_epochs=1)
print(sorted(trainer.callback_metrics))
"""


@pytest.mark.slow
@both_names
def test_two_forked_processes_end_and_write_one_run(name: str, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    command = [sys.executable, "-c", FORKED, name, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "['train_loss', 'val_loss']"  # ours stay out of the pipe between processes
    (run,) = (tmp_path / "run").iterdir()
    tags = EventAccumulator(str(run)).Reload().Tags()["scalars"]
    assert len([tag for tag in tags if tag.startswith(("probe", "importance", "health", "drift"))]) > 100


@both_names
def test_held_out_batches_move_as_validation_batches_do(name: str, tmp_path: Path) -> None:
    seen: list[Any] = []

    class Augments(MODELS[name]):  # type: ignore[misc]
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            seen.append((self.trainer.validating, type(self.trainer.state.stage).__module__.split(".")[0]))
            return batch

    fit(name, tmp_path, [convscope.LayerProbe(heldout=convscope.HeldOut(images(8)))], module=Augments(), max_epochs=1)
    assert seen[1:]
    assert {module for _, module in seen} == {name.split(".")[0]}


class Wrapped:
    """A user's own logger around a ``SummaryWriter``; ``kind`` is the Logger class of one name."""

    @staticmethod
    def of(kind: type, folder: Path) -> Any:
        class Own(kind):  # type: ignore[valid-type, misc]
            experiment = SummaryWriter(str(folder))
            name, version = "own", 0

            def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None: ...

            def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

        return Own()


@both_names
def test_writers_are_found_by_what_they_offer(name: str, tmp_path: Path) -> None:
    loggers = submodule(name, "loggers")
    own = Wrapped.of(loggers.logger.Logger, tmp_path / "own")

    class Offline(type(own)):  # type: ignore[misc]
        cut = False

        @property
        def experiment(self) -> Any:
            if self.cut:
                raise ConnectionError("no network")

    class Cut(sys.modules[name].Callback):  # type: ignore[misc]
        def on_train_start(self, *args: Any) -> None:
            Offline.cut = True  # the trainer itself has asked each logger for its experiment before

    plain = loggers.TensorBoardLogger(tmp_path, name="run")
    callbacks = [Cut(), convscope.FilterCorrelation(on_error="raise")]
    several = [loggers.CSVLogger(tmp_path), Offline(), own, plain]
    trainer = fit(name, tmp_path, callbacks, logger=several, max_epochs=1)
    assert bridge.tensorboard_writers(trainer) == [own.experiment, plain.experiment]
    own.experiment.flush()
    folders = (str(tmp_path / "own"), plain.log_dir)
    found = [EventAccumulator(folder).Reload().Tags()["images"] for folder in folders]
    assert found[0] == found[1] != []


@both_names
def test_the_csv_logger_of_either_name_has_pictures_beside_it(name: str, tmp_path: Path) -> None:
    logger = submodule(name, "loggers").CSVLogger(tmp_path)
    fit(name, tmp_path, [convscope.FilterCorrelation()], logger=logger, max_epochs=1)
    assert len(list((Path(logger.log_dir) / "convscope/correlation/matrix").glob("*/step=0.png"))) > 1


@both_names
def test_the_command_line_builds_every_callback(name: str, tmp_path: Path) -> None:
    cli = pytest.importorskip(f"{name}.cli")
    shared = {"class_path": "convscope.HeldOut", "init_args": {"size": 24, "batch_size": 10}}
    given = {"heldout": shared, "pictures": False, "on_error": "raise"}
    built_alone = [
        kind for kind in CALLBACKS if kind is not convscope.FilterLoss
    ]  # which needs convolutions of its own
    listed = [
        {"class_path": f"convscope.{kind.__name__}", "init_args": given if issubclass(kind, LayerObserver) else {}}
        for kind in built_alone
    ]
    logger = {"class_path": f"{name}.loggers.TensorBoardLogger", "init_args": {"save_dir": str(tmp_path)}}
    quiet = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "max_epochs": 1}
    written = tmp_path / "written.yaml"
    written.write_text(yaml.safe_dump({"trainer": {**quiet, "logger": logger, "callbacks": listed}}))
    built = cli.LightningCLI(MODELS[name], args=["fit", "--config", str(written)]).trainer
    assert {type(c) for c in built.callbacks if type(c) in CALLBACKS} == set(built_alone)
    assert float(built.callback_metrics["zz_convscope/errors"]) == 0.0
    saved = cli.LightningCLI(MODELS[name], args=["fit", "--config", f"{built.log_dir}/config.yaml"]).trainer
    assert curves(saved) == curves(built)


@both_names
def test_the_command_line_takes_a_callback_of_its_own_group(name: str, tmp_path: Path) -> None:
    cli = pytest.importorskip(f"{name}.cli")

    class Own(cli.LightningCLI):  # type: ignore[misc, name-defined]
        def add_arguments_to_parser(self, parser: Any) -> None:
            parser.add_lightning_class_args(convscope.LayerProbe, "probe")

    made = Own(MODELS[name], run=False, args=["--probe.every_n_epochs=3", "--trainer.logger=false"])
    probes = [callback for callback in made.trainer.callbacks if isinstance(callback, convscope.LayerProbe)]
    assert [probe.schedule.every_n_epochs for probe in probes] == [3]


@both_names
def test_training_is_bitwise_the_same(name: str, tmp_path: Path) -> None:
    module = [fit(name, tmp_path, callbacks).lightning_module for callbacks in ([], convscope.suite("standard"))]
    assert all(map(torch.equal, module[0].state_dict().values(), module[1].state_dict().values()))


def test_a_refusal_is_caught_by_either_name() -> None:
    from convscope.callbacks.engine.hierarchies import MisconfigurationException

    for name in (lightning.pytorch, pytorch_lightning):
        assert issubclass(MisconfigurationException, name.utilities.exceptions.MisconfigurationException)
