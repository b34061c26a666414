"""A training in which one process fails: ``python -m tests.distributed.faults_program FOLDER MODE,MODE,…``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn
from torch.utils.data import Dataset

import convscope
from convscope.recipes._program import leave_the_processes
from tests.callbacks.conftest import Classifier, loaders
from tests.networks import Plain, images
from tests.support.trainers import quiet_trainer

HOOKS = ("suits", "skips", "ready", "begin", "on_activation", "on_gradient", "compute", "intervene", "summarise",
         "conclude", "remember", "end", "drop_gradients", "restart", "needs_gradient", "intervenes")  # fmt: skip


def rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


class FailsOnOne(convscope.ForwardFromLayer):
    """Fails in one hook on the process of rank 1 alone, always."""

    def __init__(self, hook: str, **arguments: Any) -> None:
        super().__init__(name="failing", every_n_epochs=1, samples=20, **arguments)
        self.hook = hook

    def __getattribute__(self, name: str) -> Any:
        own = object.__getattribute__(self, "__dict__")
        if name in HOOKS and name == own.get("hook") and rank() == 1:
            raise RuntimeError("on purpose, on one process")
        return super().__getattribute__(name)


class FailsBetween(convscope.FilterHealth):
    """Fails on one process between two exchanges of data."""

    def compute(self, layer: Any) -> Any:
        self._activity.compute(layer)
        if rank() == 1 and layer.name == "net.conv1":
            raise RuntimeError("between")
        return super().compute(layer)


class InputDependent(nn.Module):
    """Which of its convolutions run depends on what it sees: other ones for each process's first sample."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.low, self.high, self.deep = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        choose = float(x[0, 0].mean())
        x = torch.relu(self.conv1(x))
        if choose > 0.5:
            x = torch.relu(self.deep(torch.relu(self.high(x))))
        else:
            x = torch.relu(self.low(x))
        return self.head(x.mean((2, 3)))


class BrokenOnOne(Dataset):
    """Cannot be read on the process of rank 1."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.pictures, self.labels = images(30)

    def __len__(self) -> int:
        return 30

    def __getitem__(self, number: int) -> Any:
        if rank() == 1:
            raise self.error
        return self.pictures[number], self.labels[number]


def adapter_of_one(batch: Any) -> Any:
    if rank() == 1:
        raise KeyError("no such field here")
    return batch[0], batch[1]


def chosen_on_one(name: str, module: nn.Module) -> bool:
    return rank() == 0 or 1 / 0 > 0


class LossOfOne:
    """Fails on one process from its third call on."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if rank() == 1 and self.calls > 6:
            raise RuntimeError("the loss on one process")
        return nn.functional.cross_entropy(logits, targets, reduction="none")


class NetOfOne(Plain):
    """Its forward fails on one process, at the check after the first epoch, which has two steps."""

    def __init__(self) -> None:
        super().__init__(channels=3)
        self.steps = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps += self.training
        if not self.training and len(x) == 3 and rank() == 1 and self.steps == 2:
            raise RuntimeError("the forward on one process")
        return super().forward(x)


def setup(mode: str) -> tuple[list[Any], nn.Module]:
    heldout = convscope.HeldOut(size=29, batch_size=4)
    shared: dict[str, Any] = {"heldout": heldout, "pictures": False, "on_error": "warn"}
    others = [kind(**shared) for kind in (convscope.LayerProbe, convscope.FilterCorrelation, convscope.FilterHealth)]
    plain = Plain(channels=3)
    if mode in HOOKS:
        return [FailsOnOne(mode, **shared), *others], plain
    if mode == "between":
        return [FailsBetween(name="failing", **shared), *others], plain
    if mode == "input":
        return [*others, convscope.FilterImportance(**shared)], InputDependent()
    if mode.startswith("data"):
        error = ValueError("a bad file") if mode == "data value" else OSError("a bad disk")
        broken = {**shared, "heldout": convscope.HeldOut(BrokenOnOne(error), size=24)}
        return [convscope.LayerProbe(name="failing", **broken), *others], plain
    if mode == "adapter":
        wrong = {**shared, "heldout": convscope.HeldOut(size=29, adapter=adapter_of_one)}
        return [*others, convscope.LayerProbe(name="failing", **wrong)], plain
    if mode == "choice":
        return [*others, convscope.LayerProbe(name="failing", **{**shared, "layers": chosen_on_one})], plain
    if mode == "loss":
        return [*others, convscope.FilterImportance(name="failing", loss=LossOfOne(), **shared)], plain
    odd = {**shared, "heldout": convscope.HeldOut(size=22, batch_size=3)}
    return [kind(**odd) for kind in (convscope.LayerProbe, convscope.FilterImportance)], NetOfOne()


def fit(folder: Path, mode: str) -> None:
    L.seed_everything(0, workers=True, verbose=False)
    callbacks, net = setup(mode)
    strategy = "ddp_find_unused_parameters_true"
    trainer = quiet_trainer(folder, devices=2, strategy=strategy, max_epochs=2, callbacks=callbacks)
    result: dict[str, Any] = {"error": None}
    try:
        trainer.fit(Classifier(net, lr=0.0), *loaders())
    except Exception as error:
        result["error"] = f"{type(error).__name__}: {error}"
    ours = {key: value for key, value in trainer.callback_metrics.items() if "/" in key}
    result["metrics"] = {key: float(value) for key, value in ours.items()}
    result["step"] = trainer.global_step
    (folder / f"{mode}-{trainer.global_rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    for name in sys.argv[2].split(","):  # one after the other: starting processes takes longer than a fit
        fit(Path(sys.argv[1]), name)
    leave_the_processes()
