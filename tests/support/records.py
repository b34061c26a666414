"""Records of made-up numbers, written through the recorder that runs use."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np

import convscope
from convscope.callbacks.engine.failures import Failures
from convscope.callbacks.engine.observer import Plan
from convscope.callbacks.engine.recording import RecordKeeper
from convscope.capture.network.trace import Layer


def layer(name: str, channels: int, order: int) -> Layer:
    empty: Any = None
    return Layer(name, "Conv2d", ("Conv2d",), channels, (8, 8), 1, empty, order, empty, empty)


class Checks:
    """Writes checks of made-up numbers through the recorder that runs use."""

    def __init__(self, folder: Path, channels: list[int], names: list[str] | None = None) -> None:
        self.random = np.random.default_rng(0)
        names = names or [f"net.stage{i // 4}.block{i}.conv1" for i in range(len(channels))]
        self.layers = [layer(name, count, i) for i, (name, count) in enumerate(zip(names, channels, strict=True))]
        self.observers = [
            convscope.LayerProbe(), convscope.FilterImportance(), convscope.FilterHealth(),
            convscope.FilterCorrelation(),
        ]  # fmt: skip
        quiet: Any = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        self.trainer = L.Trainer(accelerator="cpu", default_root_dir=folder, enable_model_summary=False, **quiet)
        heldout: Any = SimpleNamespace(total=64, fingerprint="f", class_names=["a", "b"])
        subject: Any = None
        self.plan = Plan(subject, heldout, list(self.observers), {o.name: self.layers for o in self.observers})
        self.recorder = RecordKeeper(Failures(raising=True), list(self.observers))
        self.written: dict[int, Any] = {}

    def write(self, step: int, epoch: int = 0) -> None:
        found = [(observer, self._findings(observer)) for observer in self.observers]
        self.written[step] = {observer.name: findings for observer, findings in found}
        when = convscope.Moment("validation", epoch, step)
        self.recorder.write(self.trainer, [self.plan], list(found), {"seconds": 1.0}, when)

    def _findings(self, observer: Any) -> convscope.Findings:
        findings = convscope.Findings(observer.name, kind=observer.family, summary={"best": self.random.random()})
        for one in self.layers:
            scalars = {f"quantity_{i}": self.random.random() for i in range(8)}
            vector = 10.0 ** self.random.uniform(-12, 3) * self.random.random(one.channels)
            distribution = vector if observer.family in ("importance", "health") else None
            matrix = self._matrix(one.channels) if observer.family == "correlation" else None
            findings.layers[one.name] = convscope.LayerResult(scalars, distribution, matrix)
        return findings

    def _matrix(self, channels: int) -> np.ndarray:
        matrix = np.corrcoef(self.random.normal(size=(channels, channels + 8)))
        matrix[0], matrix[:, 0] = 0.0, 0.0  # a constant filter
        return matrix

    @property
    def file(self) -> Path:
        (found,) = Path(self.trainer.default_root_dir).rglob("*tfevents*")
        return found
