"""One run of the fault benchmark: train, inject, and record every metric that a rule or a rival could have seen."""

from __future__ import annotations

import logging
import time
import warnings
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import SpikeDetection
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

import convscope
from benchmarks.fault_injection import LEVELS, NEVER, NOTHING, STRENGTHS, Fault, applies, struck_layers
from benchmarks.fault_programs import Learner, Program, draw_program, families
from convscope.callbacks.engine import bridge
from convscope.callbacks.engine.findings import Moment
from convscope.callbacks.parts.fresh_values import FreshValues
from convscope.callbacks.parts.observed_positions import layer_positions
from convscope.callbacks.parts.training_batches import TrainingBatches
from convscope.callbacks.parts.training_gradients import TrainingGradients

_TALKATIVE = ("lightning.pytorch", "lightning.fabric", "convscope")  # loggers
# What neither a rule nor a rival reads, and what is read off other tags.
_NOT_KEPT = ("0_overview/", "zz_convscope/seconds", "zz_convscope/overhead", "probe/selectivity", "correlation/part")


@dataclass(frozen=True)
class Job:
    """Identity of a run."""

    half: str
    family: str
    fault: str | None
    strength: str
    number: int
    twin: bool = False  # the same run, but the fault never strikes

    @property
    def key(self) -> str:
        """Unique among the jobs."""
        return self._shared + ("/twin" if self.twin else "")

    @property
    def _shared(self) -> str:
        return f"{self.half}/{self.family}/{self.fault or 'healthy'}/{self.strength}/{self.number}"

    @property
    def seed(self) -> int:
        """The seed of everything in the run; a twin has the same."""
        return zlib.crc32(self._shared.encode())

    @property
    def program(self) -> Program:
        """Its training program."""
        return draw_program(self.half, self.family, self.seed)

    @property
    def begins(self) -> int | None:
        """Number of checks before the fault; None for a healthy run."""
        if self.fault is None:
            return None
        if self.fault in NOTHING:
            return 0
        return self.program.checks // 3 + self.seed % 4


def jobs(half: str) -> Iterator[Job]:
    """Every run of a half, in an order in which the first hundred are a sample of all."""
    plan, names = families()["plan"][half], list(families()[half])
    first = plan.get("first", 0)
    yield from (Job(half, family, None, "none", number) for number in range(first) for family in names)
    for round_ in range(max(plan["healthy"], plan["medium"])):
        for number in range(max(2 * round_, first), min(2 * round_ + 2, plan["healthy"])):
            yield from (Job(half, family, None, "none", number) for family in names)
        if round_ < plan["medium"]:
            yield from _nothing(half, names, round_)
            yield from _with_twins(_faults(half, names, "medium", round_), plan)
        if round_ == plan["medium"] - 1:
            for weak in range(plan["weak"]):
                yield from _with_twins(_faults(half, names, "weak", weak), plan)


def _with_twins(faulty: Iterator[Job], plan: dict[str, Any]) -> Iterator[Job]:
    for job in faulty:
        yield job
        if plan.get("twins"):
            yield replace(job, twin=True)


def _faults(half: str, names: list[str], strength: str, round_: int) -> Iterator[Job]:
    """Every fault once, each in another family in each round."""
    for place, fault in enumerate(families()["plan"][half].get("faults", LEVELS)):
        offset = place + 5 * round_ + 3 * STRENGTHS.index(strength)
        for shift in range(len(names)):
            job = Job(half, names[(offset + shift) % len(names)], fault, strength, round_)
            if applies(fault, job.program):
                yield job
                break


def _nothing(half: str, names: list[str], round_: int) -> Iterator[Job]:
    for place, fault in enumerate(NOTHING):
        for shift in range(len(names)):
            job = Job(half, names[(place + 4 * round_ + shift) % len(names)], fault, "medium", round_)
            if applies(fault, job.program):
                yield job
                break


def run(job: Job) -> dict[str, Any]:
    """Train once; returns a record of plain values."""
    with _quiet():
        return _record(job)


def _record(job: Job) -> dict[str, Any]:
    began = time.process_time()
    program, begins = job.program, job.begins
    L.seed_everything(job.seed, verbose=False)
    fault = Fault() if begins is None else Fault(job.fault, job.strength, NEVER if job.twin else begins, job.seed)
    module = Learner(program, fault)
    layers = [] if job.fault is None or job.fault in NOTHING else struck_layers(job.fault, fault.level, module.net)
    prefix = "ema" if program.ema else "net"
    names = {id(one): f"{prefix}.{name}" for name, one in module.net.named_modules()}
    recorder, spike = Recorder(), _Spike()
    with _read_where_written(recorder), TemporaryDirectory() as folder:  # the record of a run is not kept
        trainer = _trainer(program, [*_observers(program, job.fault), spike, recorder], folder)
        trainer.fit(module, *_loaders(program, job.fault))
    return {
        "key": job.key,
        "half": job.half,
        "family": job.family,
        "fault": job.fault,
        "strength": job.strength,
        "twin": job.twin,
        "begins": begins,
        "program": program.as_dict(),
        "layers": [names[id(layer)] for layer in layers],
        "checks": recorder.checks,
        "features": recorder.features,
        "spike": spike.check,
        "seconds": round(time.process_time() - began, 2),
    }


class Recorder(L.Callback):
    """Reads what DriftAlert would read, when it would read it, and what SentryCam's rule needs beside that."""

    def __init__(self) -> None:
        self.checks: list[dict[str, float]] = []
        self.features: list[tuple[float, float] | None] = []
        self._fresh, self._batches, self._gradients = FreshValues(), TrainingBatches(), TrainingGradients()
        self._own: dict[str, float] = {}

    def write(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        scalars: Mapping[str, float],
        when: Moment,
        unlogged: Collection[str] = (),
    ) -> None:
        """Take the values of a check; those from before training are not judged."""
        if when.trigger != "start":
            self._own = dict(scalars)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._fresh.note_learning_rate(trainer)
        self._batches.note(batch, trainer.current_epoch)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self._gradients.note(pl_module)

    def on_validation_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, *_: Any) -> None:
        if bridge.fitting(trainer):
            self._batches.note_validation(batch)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if bridge.fitting(trainer):
            looks = self._batches.take() | self._gradients.take()
            values = self._own | self._fresh.take(trainer) | layer_positions(trainer) | looks
            self._own = {}
            self.checks.append({tag: _short(v) for tag, v in values.items() if not tag.startswith(_NOT_KEPT)})
            assert isinstance(pl_module, Learner)
            self.features.append(spread_of_classes(pl_module))


def spread_of_classes(module: Learner) -> tuple[float, float] | None:
    """Variance within classes and mean distance of their centres, of the features that the head reads."""
    if module.program.task != "classes":
        return None
    net = module.ema if module.ema is not None else module.net
    with torch.no_grad():
        features = net[:-1](module.program.images.x_val.to(module.device)).cpu()  # type: ignore[index]
    groups = [g for label in range(10) if len(g := features[module.program.images.y_val == label]) > 1]
    centres = torch.stack([group.mean(0) for group in groups])
    within = torch.cat([group - group.mean(0) for group in groups]).square().sum(1).mean()
    return _short(float(within)), _short(float(torch.pdist(centres).mean()))


class _Spike(SpikeDetection):
    """Lightning's own, which notes the check of its first alarm where it would end the training."""

    check: int | None = None

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *arguments: Any) -> None:
        self._now = pl_module.checks
        if self.check is None:
            super().on_train_batch_end(trainer, pl_module, *arguments)

    def _handle_spike(self, fabric: Any, batch_idx: int) -> None:
        self.check = self._now


def _observers(program: Program, fault: str | None) -> list[L.Callback]:
    x, y = _validation(program, fault)
    size = families()["settings"]["heldout"]
    shared: dict[str, Any] = {"heldout": convscope.HeldOut((x, y), size=size, batch_size=size), "pictures": False}
    return [
        convscope.LayerProbe(**shared),
        convscope.FilterImportance(**shared),
        convscope.FilterCorrelation(**shared),
        convscope.RepresentationDrift(**shared),
        convscope.FilterHealth(**shared),
    ]


def _validation(program: Program, fault: str | None) -> tuple[torch.Tensor, torch.Tensor]:
    images = program.images
    known = images.y_val < 5 if fault == "task_switch" else torch.ones(len(images.y_val), dtype=torch.bool)
    return images.x_val[known], images.y_val[known]


def _loaders(program: Program, fault: str | None) -> tuple[DataLoader, DataLoader]:
    images = program.images
    train = TensorDataset(images.x, images.y, torch.arange(len(images.y)))
    val = TensorDataset(*_validation(program, fault))
    batches = BatchSampler(RandomSampler(train), program.batch_size, drop_last=True)
    return DataLoader(train, sampler=batches, batch_size=None), DataLoader(
        val, sampler=BatchSampler(range(len(val)), 256, drop_last=False), batch_size=None
    )


def _trainer(program: Program, callbacks: list[L.Callback], folder: str | None = None) -> L.Trainer:
    shared: dict[str, Any] = {
        "precision": program.precision,
        "accelerator": program.device,
        "gradient_clip_val": program.clip or None,
        "accumulate_grad_batches": program.accumulate,
        "default_root_dir": folder,
    }
    if program.every:
        return bare_trainer(
            callbacks,
            max_steps=program.checks * program.every,
            val_check_interval=program.every,
            check_val_every_n_epoch=None,
            **shared,
        )
    epochs = program.checks // program.per_epoch
    return bare_trainer(
        callbacks,
        max_epochs=epochs,
        val_check_interval=1.0 / program.per_epoch,
        **shared,
    )


def bare_trainer(callbacks: list[L.Callback], accelerator: str = "cpu", **arguments: Any) -> L.Trainer:
    """A trainer that does nothing beside training, validation and the callbacks."""
    return L.Trainer(
        accelerator=accelerator,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=callbacks,
        use_distributed_sampler=False,
        **arguments,
    )


def _short(value: float) -> float:
    return float(f"{value:.5g}")


@contextmanager
def _read_where_written(recorder: Recorder) -> Iterator[None]:
    """Lightning's own logging of 250 values per check takes two thirds of so small a run: it is left out."""
    written = bridge.write_scalars
    bridge.write_scalars = recorder.write  # type: ignore[assignment]
    try:
        yield
    finally:
        bridge.write_scalars = written


@contextmanager
def _quiet() -> Iterator[None]:
    """One thread, since runs go side by side, and no word of Lightning's or ours; all of it as before afterwards."""
    threads, loggers = torch.get_num_threads(), [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    torch.set_num_threads(1)
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(threads)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
