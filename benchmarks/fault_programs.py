"""Training programs of the fault benchmark: a family's draw, its network, optimizer and schedule."""

from __future__ import annotations

import copy
import math
import random
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
import yaml
from torch import nn

from benchmarks.fault_data import Images, augmented, load_images
from benchmarks.fault_networks import build_net

RATES = {
    "sgd": 0.05, "nesterov": 0.05, "plain_sgd": 0.2, "adamw": 2e-3, "adam": 2e-3, "nadam": 2e-3, "radam": 4e-3,
    "adamax": 4e-3, "adagrad": 1e-2, "rmsprop": 1e-3, "lion": 3e-4, "adadelta": 0.5,
    "asgd": 0.1,
}  # fmt: skip
OTHERS: dict[str, Any] = {
    "adam": torch.optim.Adam, "nadam": torch.optim.NAdam, "radam": torch.optim.RAdam, "adamax": torch.optim.Adamax,
    "adagrad": torch.optim.Adagrad, "rmsprop": torch.optim.RMSprop, "adadelta": torch.optim.Adadelta,
    "asgd": torch.optim.ASGD,
}  # fmt: skip


@lru_cache
def families() -> dict[str, Any]:
    """The file of families: settings, plan, and the families of each half."""
    found: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "fault_families.yaml").read_text(encoding="utf-8"))
    return found


@dataclass(frozen=True)
class Program:
    """One training program, drawn from a family by its seed."""

    seed: int
    family: str
    data: str
    net: str
    norm: str
    activation: str
    optimizer: str
    schedule: str
    checks: int
    batch_size: int
    width: int
    dropout: float
    task: str = "classes"
    augment: str = "none"
    imbalance: float = 0.0
    rate: float = 1.0
    per_epoch: int = 1
    every: int = 0  # steps between checks, whatever an epoch is; 0: checks are epochs or parts of one
    precision: str = "32-true"
    pretrained: int = 0
    ema: float = 0.0
    smoothing: float = 0.0  # of labels
    clip: float = 0.0  # greatest norm of the gradients, as a sound program clips them
    accumulate: int = 1  # batches per step
    train: int = 0  # training images; 0: as many as the settings say
    device: str = "cpu"  # or auto: the GPU where there is one

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @property
    def images(self) -> Images:
        """Its data."""
        settings = families()["settings"]
        train = self.train or settings["train"]
        return load_images(self.data, self.task, self.imbalance, train, settings["validation"])

    @property
    def outputs(self) -> int:
        """Number of the network's outputs, per sample or per position."""
        return {"classes": 10, "regression": 2, "segmentation": 2}[self.task]


def draw_program(half: str, family: str, seed: int) -> Program:
    """A training program of a family; nothing in it is a fault."""
    draw = random.Random(seed)
    choices: dict[str, Any] = {
        "batch_size": [32, 64],
        "width": [8, 12],
        "dropout": [0.0, 0.0, 0.2],
        **families()[half][family],
    }
    drawn = {name: draw.choice(value) if isinstance(value, list) else value for name, value in choices.items()}
    return Program(seed=seed, family=family, **drawn)


def schedule_factor(schedule: str, progress: float) -> float:
    """Learning rate as a share of the base rate; ``progress`` is the share of the run that is over."""
    if schedule == "step":
        return 0.1 ** ((progress >= 0.5) + (progress >= 0.75))
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress)) + 1e-3
    if schedule == "restarts":
        return 0.5 * (1 + math.cos(math.pi * (progress * 4 % 1)))
    if schedule == "warmup":
        return min(1.0, 0.1 + progress / 0.2) * (0.5 * (1 + math.cos(math.pi * progress)) + 1e-3)
    if schedule == "linear":
        return 1 - 0.99 * progress
    if schedule == "polynomial":
        return (1 - progress) ** 2 + 1e-3
    if schedule == "halving":
        return 0.5 ** int(progress * 6)
    if schedule == "inverse":
        return 1 / (1 + 9 * progress)
    if schedule == "triangle":
        return 0.1 + 0.9 * (1 - abs(2 * progress - 1))
    if schedule == "late":
        return 1.0 if progress < 0.7 else max(1e-3, (1 - progress) / 0.3)
    if schedule == "cycles":
        return 0.2 + 0.8 * abs(math.cos(2 * math.pi * progress))
    if schedule == "exponential":
        return 0.03**progress
    if schedule == "onecycle":
        return 0.1 + 0.9 * progress / 0.4 if progress < 0.4 else 0.5 * (1 + math.cos(math.pi * (progress - 0.4) / 0.6))
    return 1.0


class Lion(torch.optim.Optimizer):
    """Lion (Chen et al. 2023): the sign of an interpolated momentum, decoupled weight decay."""

    def __init__(self, groups: Any, lr: float, weight_decay: float) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                mean = state.setdefault("mean", torch.zeros_like(weight))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.sub_(group["lr"] * (0.9 * mean + 0.1 * weight.grad).sign())
                mean.mul_(0.99).add_(weight.grad, alpha=0.01)
        return loss


class Learner(L.LightningModule):
    """An ordinary program; a fault may reach into batch, loss, gradients, optimizer and network from outside."""

    def __init__(self, program: Program, fault: Any) -> None:
        super().__init__()
        self.program, self.fault = program, fault
        self.net = build_net(program.net, program.norm, program.activation, program.width, program.outputs,
                             program.task, program.dropout)  # fmt: skip
        if program.pretrained:
            _pretrain(self.net, program)
        self.ema = copy.deepcopy(self.net).eval() if program.ema else None
        self.factor, self.decay, self.weights = 1.0, program.ema, torch.ones(program.outputs)
        self.checks = 0  # checks that are over: the moment that faults count in

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        averaged = self.ema is not None and not self.training
        out: torch.Tensor = self.ema(images) if averaged else self.net(images)  # type: ignore[misc]
        return out

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The training loss."""
        if self.program.task == "regression":
            return F.mse_loss(outputs, targets)
        weights = self.weights.to(outputs.device)
        return F.cross_entropy(outputs, targets, weights, label_smoothing=self.program.smoothing)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss = self.loss(self(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def on_before_batch_transfer(self, batch: list[torch.Tensor], dataloader_idx: int) -> list[torch.Tensor]:
        """What a loader would have done: callbacks see the batches that training sees."""
        if not self.trainer.training:
            return batch
        self.fault.at_batch(self)
        images, targets, index = batch
        images = augmented(images, self.program.augment)
        return [*self.fault.batch(self, images, targets, index), index]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        progress = self.trainer.global_step / max(1, self.trainer.estimated_stepping_batches)
        for group in self.optimizers().param_groups:  # type: ignore[union-attr]
            group["lr"] = group["base"] * schedule_factor(self.program.schedule, progress) * self.factor

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.fault.gradients(self)

    def on_train_batch_end(self, *_: Any) -> None:
        if self.ema is not None:
            for mine, new in zip(self.ema.state_dict().values(), self.net.state_dict().values(), strict=True):
                if mine.is_floating_point():
                    mine.lerp_(new, 1 - self.decay)

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        images, targets = batch
        outputs = self(images)
        if self.program.task == "regression":
            self.log("val_loss", F.mse_loss(outputs, targets))
            return
        self.log("val_loss", F.cross_entropy(outputs, targets))
        self.log("val_acc", (outputs.argmax(1) == targets).float().mean())

    def on_validation_end(self) -> None:
        self.checks += 1

    def configure_optimizers(self) -> torch.optim.Optimizer:
        groups = [{"params": [p], "base": 0.0} for p in self.net.parameters()]
        name = self.program.optimizer
        rate = RATES[name] * self.program.rate
        if name in ("sgd", "nesterov", "plain_sgd"):
            rate *= 0.4 if self.program.norm == "none" else 1.0
            momentum = 0.0 if name == "plain_sgd" else 0.9
            optimizer: torch.optim.Optimizer = torch.optim.SGD(
                groups, lr=rate, momentum=momentum, weight_decay=1e-4, nesterov=name == "nesterov"
            )
        elif name in OTHERS:
            optimizer = OTHERS[name](groups, lr=rate, weight_decay=1e-4)
        else:
            optimizer = (Lion if name == "lion" else torch.optim.AdamW)(groups, lr=rate, weight_decay=1e-2)
        for group in optimizer.param_groups:
            group["base"] = group["lr"]
        return optimizer


def _pretrain(net: nn.Module, program: Program) -> None:
    """A few epochs on the first five classes, so that the run itself is a fine-tuning on all ten."""
    images = program.images
    known = (images.y < 5).nonzero().flatten()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    for _ in range(program.pretrained):
        for index in known[torch.randperm(len(known))].split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(images.x[index]), images.y[index]).backward()
            optimizer.step()
    optimizer.zero_grad()
