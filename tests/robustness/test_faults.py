"""Faults on purpose during a check: training goes on or stops as asked, nothing is left behind, no file is spoiled."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch.utils.tensorboard import SummaryWriter

import convscope
import convscope.callbacks.engine.pictures as pictures_module
from tests.callbacks.conftest import Classifier, loaders
from tests.capture.test_isolation import same, snapshot
from tests.compatibility.cells import few, observers, small, train
from tests.compatibility.test_loops import Endless
from tests.networks import TinyResNet, images

LEFT = ("modes", "requires_grad", "hooks", "parameter_hooks", "grad_mode", "inference", "autocast")


def assert_nothing_left(module: L.LightningModule, but: str = "") -> None:
    """No hook, no mode, nothing that the process keeps is other than in a module that was only made."""
    fresh, found = snapshot(small()), snapshot(module)
    assert [what for what in LEFT if what != but and not same(found[what], fresh[what])] == []
    assert torch.get_default_dtype() == torch.float32
    assert torch.overrides._get_current_function_mode_stack() == []


def records(folder: Path) -> int:
    """Events in the files of a run, each of whose checksums is right."""
    files = sorted(folder.rglob("events.*"))
    return sum(1 for file in files for _ in EventFileLoader(str(file)).Load())


class Faulty(convscope.FilterImportance):
    """Raises at one place of one check, once."""

    def __init__(self, place: str, error: type[BaseException], check: int) -> None:
        super().__init__(name="faulty")
        self.place, self.error, self.check, self.begun, self.raised = place, error, check, 0, 0

    def _at(self, place: str) -> None:
        if place == self.place and self.begun == self.check and not self.raised:
            self.raised += 1
            raise self.error("on purpose")

    def begin(self, *args: Any) -> None:
        self.begun += 1
        self._at("begin")
        super().begin(*args)

    def on_activation(self, record: Any) -> None:
        self._at("on_activation")
        super().on_activation(record)

    def on_gradient(self, *args: Any) -> None:
        self._at("on_gradient")
        super().on_gradient(*args)

    def compute(self, layer: Any) -> Any:
        self._at("compute")
        return super().compute(layer)

    def summarise(self, values: Any) -> Any:
        self._at("summarise")
        return super().summarise(values)

    def remember(self, *args: Any) -> None:
        self._at("remember")
        super().remember(*args)

    def draw(self, *args: Any) -> None:
        self._at("draw")
        super().draw(*args)

    def end(self) -> None:
        self._at("end")
        super().end()


PLACES = ["begin", "on_activation", "on_gradient", "compute", "summarise", "remember", "draw", "end"]


@pytest.mark.parametrize("place", PLACES)
def test_an_exception_anywhere_in_a_check(place: str, tmp_path: Path) -> None:
    faulty = Faulty(place, RuntimeError, check=2)
    logger = TensorBoardLogger(tmp_path, name="run")
    done = train([faulty, convscope.LayerProbe()], tmp_path, make=small, max_epochs=3, logger=logger)
    assert faulty.raised == 1
    assert done.trainer.global_step == 12
    assert done.scalars["zz_convscope/errors"] >= 1
    assert "faulty/gini/net.conv1" in done.scalars  # the next check is whole again
    assert_nothing_left(done.module)
    without = train([], tmp_path, make=small, max_epochs=3)
    assert same(without.outcome["state"], done.outcome["state"])
    assert same(without.outcome["streams"], done.outcome["streams"])
    assert records(tmp_path) > 10


@pytest.mark.parametrize("place", PLACES)
def test_ctrl_c_anywhere_in_a_check(place: str, tmp_path: Path) -> None:
    faulty, module = Faulty(place, KeyboardInterrupt, check=1), small()  # before Lightning's own validation mode
    logger = TensorBoardLogger(tmp_path, name="run")
    with pytest.raises(SystemExit):  # as Lightning does
        train([faulty, convscope.LayerProbe()], tmp_path, make=lambda: module, max_epochs=3, logger=logger)
    assert faulty.raised == 1
    assert faulty.session is None
    assert len(faulty._measure._metrics) == 0
    assert_nothing_left(module)
    assert records(tmp_path) >= 1


SEEN: list[int] = []  # not in the network, whose own state is put back after a check


class FailsInEvaluation(TinyResNet):
    """Its forward fails on held-out samples, not on validation batches, from the second check on."""

    def __init__(self, error: Exception) -> None:
        super().__init__(4, classes=3)
        self.error = error
        SEEN.clear()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training and len(x) == 29:
            SEEN.append(len(x))
            if len(SEEN) == 2:
                raise self.error
        return super().forward(x)


def test_an_exception_in_the_networks_own_forward(tmp_path: Path, caplog: Any) -> None:
    heldout = convscope.HeldOut(size=29, batch_size=29)
    module = Classifier(FailsInEvaluation(ValueError("the user's own")))
    done = train(few(heldout=heldout, on_error="warn"), tmp_path, make=lambda: module, max_epochs=3)
    assert done.trainer.global_step == 12
    assert done.scalars["zz_convscope/errors"] == 1
    said = "the held-out pass with gradients failed (ValueError: the user's own)"
    assert sum(said in message for message in caplog.messages) == 1
    assert not any(snapshot(module)["hooks"])


def bad_adapter(batch: Any) -> Any:
    raise KeyError("no such field")


def test_an_adapter_that_fails_is_told_before_training(tmp_path: Path) -> None:
    module = small()
    with pytest.raises(MisconfigurationException, match=r"adapter=.*failed on a batch \(KeyError: 'no such field'\)"):
        train(few(heldout=convscope.HeldOut(adapter=bad_adapter)), tmp_path, make=lambda: module)
    assert_nothing_left(module)


def test_an_adapter_that_fails_on_a_stream_costs_the_checks_alone(tmp_path: Path, caplog: Any) -> None:
    from torch.utils.data import DataLoader

    callbacks = few(heldout=convscope.HeldOut(adapter=bad_adapter), on_error="warn")
    streams = lambda: (loaders()[0], DataLoader(Endless(30, 1), 8))  # noqa: E731
    done = train(callbacks, tmp_path, make=small, data=streams)
    assert done.trainer.global_step == 8
    assert any(
        "copying a validation batch failed (UserError: HeldOut(adapter=bad_adapter) failed on a batch (KeyError"
        in message
        for message in caplog.messages
    )
    assert_nothing_left(done.module)


class FullForPictures(SummaryWriter):
    """A writer whose disk has no room for pictures."""

    def add_image(self, *args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")


class Logger(TensorBoardLogger):
    @property
    def experiment(self) -> Any:
        if self._experiment is None:
            os.makedirs(self.log_dir, exist_ok=True)
            self._experiment = FullForPictures(self.log_dir)
        return self._experiment


def test_a_writer_that_fails_costs_pictures_alone(tmp_path: Path, caplog: Any) -> None:
    done = train(convscope.suite("standard"), tmp_path, make=small, logger=Logger(tmp_path, name="run"))
    assert done.trainer.global_step == 8
    said = "writing pictures to Logger failed (OSError: [Errno 28] No space left"
    assert sum(said in message for message in caplog.messages) == 1
    assert done.scalars["zz_convscope/errors"] == 9  # three checks, three failures in each
    assert records(tmp_path) > 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A real disk of 400 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size=400k tmpfs {folder} 2>/dev/null") != 0:
        pytest.skip("mounting a small disk needs the right to mount")
    yield folder
    os.system(f"umount {folder}")


def test_pictures_leave_room_on_a_small_disk(small_disk: Path, caplog: Any) -> None:
    with caplog.at_level("INFO"):
        logger = TensorBoardLogger(small_disk, name="run")
        done = train(convscope.suite("standard"), small_disk.parent, make=small, max_epochs=8, logger=logger)
    assert done.trainer.global_step == 32
    assert done.scalars["zz_convscope/errors"] == 0.0
    assert sum("histograms and pictures are skipped" in message for message in caplog.messages) == 1
    assert records(small_disk) > 300


def test_a_disk_that_is_full_stops_the_run_as_lightning_does_and_spoils_no_event(
    small_disk: Path, monkeypatch: Any, caplog: Any
) -> None:
    monkeypatch.setattr(pictures_module, "SPARE", 0)
    module = small()
    with pytest.raises((OSError, ValueError)):  # Lightning's own logging: its writer is lost
        train(
            convscope.suite("standard"), small_disk.parent, make=lambda: module, max_epochs=30,
            logger=TensorBoardLogger(small_disk, name="run"),
        )  # fmt: skip
    assert any(
        "writing pictures to TensorBoardLogger" in message and "(OSError: [Errno 28]" in message
        for message in caplog.messages
    )
    assert_nothing_left(module, but="modes")  # Lightning stopped in a validation
    assert records(small_disk) > 5  # whole up to where it was full


class Hungry(TinyResNet):
    """Has no memory for more than some samples at a time, and sees whether the failed attempt was let go."""

    def __init__(self, most: int) -> None:
        super().__init__(4, classes=3)
        self.most, self.sizes = most, []
        self.failed: list[weakref.ref] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            return super().forward(x)
        self.sizes.append(len(x))
        assert not any(kept() is not None for kept in self.failed), (
            "what the failed attempt had in memory is still there"
        )
        out = super().forward(x)
        if len(x) > self.most:
            self.failed.append(weakref.ref(out))
            raise torch.OutOfMemoryError("CUDA out of memory (on purpose)")
        return out


@pytest.mark.parametrize("most", [8, 1])
def test_out_of_memory_in_the_network_halves_the_chunk_and_lets_go_of_the_first_attempt(
    most: int, tmp_path: Path, caplog: Any
) -> None:
    plain = convscope.HeldOut(images(30), batch_size=30)
    expected = train(few(heldout=plain), tmp_path, make=lambda: Classifier(TinyResNet(4, classes=3)), max_epochs=1)
    gc.disable()
    try:
        heldout = convscope.HeldOut(images(30), batch_size=30)
        data = lambda: (loaders()[0], loaders(batch_size=1)[1])  # noqa: E731
        done = train(
            few(heldout=heldout, on_error="warn"),
            tmp_path,
            make=lambda: Classifier(Hungry(most)),
            data=data,
            max_epochs=1,
        )
    finally:
        gc.enable()
    assert max(done.module.net.sizes[-10:]) <= most
    assert "out of memory in" in caplog.text
    for name, value in expected.scalars.items():
        if name.startswith(("probe/", "importance/", "health/")):
            assert done.scalars[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


class HungryReference(TinyResNet):
    """Has no memory for more than 20 samples at a time."""

    def __init__(self, log: Path) -> None:
        super().__init__(4, classes=3)
        self.log = log  # a file, since a check puts back whatever a network keeps in memory

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with self.log.open("a") as file:
            file.write(f"{len(x)}\n")
        if len(x) > 20:
            raise torch.OutOfMemoryError("CUDA out of memory (on purpose)")
        return super().forward(x)


def test_out_of_memory_in_the_reference_halves_its_chunk_alone(tmp_path: Path) -> None:
    heldout = convscope.HeldOut(images(30), batch_size=30)
    reference = HungryReference(tmp_path / "tried")
    found, expected = (
        train(
            [convscope.RepresentationDrift(reference=net, heldout=heldout)], tmp_path,
            make=lambda: Classifier(TinyResNet(4, classes=3)), max_epochs=1,
        )
        for net in (reference, as_tiny(reference))
    )  # fmt: skip
    tried = (tmp_path / "tried").read_text().split()
    assert "30" in tried  # the whole chunk ...
    assert tried[-2:] == ["15", "15"]  # ... and then its halves
    name = "drift/cka_reference/net.conv1"
    assert found.scalars[name] == pytest.approx(expected.scalars[name], rel=1e-5)


def as_tiny(network: TinyResNet) -> TinyResNet:
    """The same weights in a network without a limit."""
    copy = TinyResNet(4, classes=3)
    copy.load_state_dict(network.state_dict())
    return copy


class HungryMetric(convscope.FilterCorrelation):
    """A metric that has no memory for more than four samples at a time."""

    def on_activation(self, record: Any) -> None:
        if len(record.activation) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory (on purpose)")
        super().on_activation(record)


def test_out_of_memory_in_a_metric_halves_the_chunk_too(tmp_path: Path, caplog: Any) -> None:
    heldout = convscope.HeldOut(images(30), batch_size=30)
    callbacks = [HungryMetric(heldout=heldout, pictures=False), convscope.LayerProbe(heldout=heldout, pictures=False)]
    done = train(callbacks, tmp_path, make=small, max_epochs=1)
    assert "held-out samples now go through 3 at a time" in caplog.text
    plain = train([convscope.FilterCorrelation(heldout=heldout, pictures=False)], tmp_path, make=small, max_epochs=1)
    name = "correlation/mean_abs/net.conv1"
    assert done.scalars[name] == pytest.approx(plain.scalars[name], rel=1e-5)


class HungryAblation(convscope.AblationOracle):
    """Has no memory for the outputs of more than ten rows, filter sets times samples, once the pass is done."""

    def intervene(self, layer: Any) -> None:
        self.intervening = True
        super().intervene(layer)

    def begin(self, *args: Any) -> None:
        self.intervening = False
        super().begin(*args)

    def _add(self, outcome: Any, logits: torch.Tensor, *args: Any) -> None:
        if self.intervening and logits.shape[0] * logits.shape[1] > 10:
            raise torch.OutOfMemoryError("CUDA out of memory (on purpose)")
        super()._add(outcome, logits, *args)


def test_out_of_memory_in_an_ablation_halves_its_chunk_and_gives_the_same_numbers(tmp_path: Path, caplog: Any) -> None:
    def scalars(kind: Any) -> dict[str, float]:
        heldout = convscope.HeldOut(images(30), batch_size=30)
        once = {"every_n_epochs": 1, "on_start": False, "pictures": False}
        return train([kind(heldout=heldout, random=3, ends=1, **once)], tmp_path, make=small, max_epochs=1).scalars

    found = scalars(HungryAblation)
    assert "filter sets now take 7 samples at a time" in caplog.text
    expected = scalars(convscope.AblationOracle)
    tags = [tag for tag in expected if tag.startswith("ablation/")]
    assert len(tags) > 10
    for tag in tags:
        assert found[tag] == pytest.approx(expected[tag], rel=1e-4, abs=1e-6), tag


def test_everything_at_once_leaves_no_thread_and_no_open_file(tmp_path: Path) -> None:
    train([], tmp_path, make=small)  # whatever Lightning itself starts
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    train([*observers(), convscope.DriftAlert(), convscope.LayerTable()], tmp_path, make=small)
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == files
