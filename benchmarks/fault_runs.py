"""One run of the fault benchmark: train, inject, and record every metric that a rule or a rival could have seen."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import SpikeDetection
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

import convscope
from benchmarks.fault_injection import LEVELS, STRENGTHS, Fault
from benchmarks.fault_models import EPOCHS, TEST_NETS, TUNING_NETS, Classifier, Images, draw_config, load_images
from convscope.callbacks.engine.bridge import fitting
from convscope.callbacks.parts.fresh_values import FreshValues

FRESH = 200_000
_TALKATIVE = ("lightning.pytorch", "lightning.fabric", "convscope")  # loggers


@dataclass(frozen=True)
class Job:
    """Identity of a run. Seeds of the tuning half are even, those of the test half odd.

    The odd seeds below ``FRESH`` were a test half once, on which the rules failed; they are among the tuning runs now.
    """

    half: str
    fault: str | None
    strength: str
    number: int

    @property
    def key(self) -> str:
        """Unique among the jobs."""
        return f"{self.half}/{self.fault or 'healthy'}/{self.strength}/{self.number}"

    @property
    def seed(self) -> int:
        """The seed of everything in the run."""
        kind = 0 if self.fault is None else 1 + 3 * list(LEVELS).index(self.fault) + STRENGTHS.index(self.strength)
        return 2 * (1000 * kind + self.number) + (self.half == "test") * (1 + FRESH)


def jobs(half: str, healthy: int, faulty: dict[str, int]) -> Iterator[Job]:
    """Every run of a half: so many healthy ones, and so many of each fault and strength."""
    for number in range(healthy):
        yield Job(half, None, "none", number)
    for strength, count in faulty.items():
        for number in range(count):
            for fault in LEVELS:
                yield Job(half, fault, strength, number)


def run(job: Job) -> dict[str, Any]:
    """Train once; returns a record of plain values."""
    with _quiet():
        return _record(job)


def _record(job: Job) -> dict[str, Any]:
    began = time.perf_counter()
    nets = TUNING_NETS if job.half == "tune" else TEST_NETS
    nets = tuple(net for net in nets if net.endswith("_bn")) if job.fault == "bn_momentum" else nets
    config = draw_config(job.seed, nets)
    L.seed_everything(job.seed, verbose=False)
    begins = 5 + job.seed // 2 % 4
    fault = Fault() if job.fault is None else Fault(job.fault, job.strength, begins, job.seed)
    recorder, spike = _Recorder(), _Spike()
    _trainer([*_observers(config.data, job.fault), spike, recorder]).fit(
        Classifier(config, fault), *_loaders(load_images(config.data), config.batch_size, job.fault)
    )
    return {
        "key": job.key,
        "half": job.half,
        "fault": job.fault,
        "strength": job.strength,
        "begins": None if job.fault is None else begins,
        "config": config.as_dict(),
        "checks": recorder.checks,
        "spike": spike.epoch,
        "seconds": round(time.perf_counter() - began, 2),
    }


class _Recorder(L.Callback):
    """Reads what DriftAlert would read, when it would read it."""

    def __init__(self) -> None:
        self.checks: list[dict[str, float]] = []
        self._fresh = FreshValues()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if fitting(trainer):
            self.checks.append({tag: _short(value) for tag, value in self._fresh.take(trainer).items()})


class _Spike(SpikeDetection):
    """Lightning's own, which notes the epoch of its first alarm where it would end the training."""

    epoch: int | None = None

    def on_train_batch_end(self, trainer: Any, *arguments: Any) -> None:
        self._now = trainer.current_epoch
        if self.epoch is None:
            super().on_train_batch_end(trainer, *arguments)

    def _handle_spike(self, fabric: Any, batch_idx: int) -> None:
        self.epoch = self._now


def _observers(data: str, fault: str | None) -> list[L.Callback]:
    images = load_images(data)
    known = images.y_val < 5 if fault == "task_switch" else images.y_val >= 0
    heldout = convscope.HeldOut((images.x_val[known], images.y_val[known]), size=256, batch_size=256)
    shared: dict[str, Any] = {"heldout": heldout, "pictures": False}
    return [
        convscope.LayerProbe(**shared),
        convscope.FilterImportance(**shared),
        convscope.FilterCorrelation(**shared),
        convscope.RepresentationDrift(**shared),
        convscope.FilterHealth(**shared),
    ]


def _loaders(images: Images, batch_size: int, fault: str | None) -> tuple[DataLoader, DataLoader]:
    known = images.y_val < 5 if fault == "task_switch" else images.y_val >= 0
    train = TensorDataset(images.x, images.y, torch.arange(len(images.y)))
    val = TensorDataset(images.x_val[known], images.y_val[known])
    batches = BatchSampler(RandomSampler(train), batch_size, drop_last=False)
    return DataLoader(train, sampler=batches, batch_size=None), DataLoader(
        val, sampler=BatchSampler(range(len(val)), 200, drop_last=False), batch_size=None
    )


def _trainer(callbacks: list[L.Callback], folder: str | None = None) -> L.Trainer:
    return L.Trainer(
        default_root_dir=folder,
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=callbacks,
        use_distributed_sampler=False,
    )


def _short(value: float) -> float:
    return float(f"{value:.6g}")


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
