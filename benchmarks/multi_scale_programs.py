"""Training programs of the validation of multi-scale interpretation, and the planted shortcut."""

from __future__ import annotations

import math
import random
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from benchmarks.data import cifar10
from benchmarks.fault_data import Images
from benchmarks.fault_runs import bare_trainer

EPOCHS = 16
SHARES = {"weak": 0.3, "medium": 0.7, "strong": 1.0}
"""Share of the training images that get a corner which tells the class."""


@dataclass(frozen=True)
class Config:
    """One training program, drawn at random for each seed."""

    seed: int
    net: str
    data: str
    optimizer: str
    batch_size: int
    schedule: str
    augment: bool
    dropout: float
    width: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def draw_config(seed: int, nets: tuple[str, ...]) -> Config:
    """A training program of a seed; nothing in it is a fault."""
    draw = random.Random(seed)
    return Config(
        seed=seed,
        net=draw.choice(nets),
        data=draw.choice(("digits", "cifar")),
        optimizer=draw.choice(("sgd", "adamw")),
        batch_size=draw.choice((32, 64, 128)),
        schedule=draw.choice(("constant", "step", "cosine", "restarts", "warmup")),
        augment=draw.random() < 0.5,
        dropout=draw.choice((0.0, 0.2)),
        width=draw.choice((12, 16, 24)),
    )


def schedule_factor(schedule: str, epoch: int) -> float:
    """Learning rate of an epoch as a share of the base rate."""
    if schedule == "step":
        return 0.1 ** ((epoch >= EPOCHS // 2) + (epoch >= 3 * EPOCHS // 4))
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (epoch + 0.5) / EPOCHS))
    if schedule == "restarts":
        return 0.5 * (1 + math.cos(math.pi * (epoch % 4 + 0.5) / 4))
    if schedule == "warmup":
        return min(1.0, (epoch + 1) / 4)
    return 1.0


# Data: three channels, train and validation.


@lru_cache
def load_images(name: str) -> Images:
    """``digits``: scikit-learn's, as intensity and two gradients; ``cifar``: CIFAR-10 at 16 × 16 pixels."""
    raw, labels = _digits() if name == "digits" else _cifar()
    mean, std = raw.mean((0, 2, 3), keepdim=True), raw.std((0, 2, 3), keepdim=True)
    images, val = (raw - mean) / std, 400
    return Images(images[val:], labels[val:], images[:val], labels[:val], mean, std)


def _digits() -> tuple[torch.Tensor, torch.Tensor]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    grey = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    across, down = grey.roll(-1, 3) - grey, grey.roll(-1, 2) - grey
    order = torch.randperm(len(grey), generator=torch.Generator().manual_seed(0))[:1400]
    return torch.cat([grey, across / 2 + 0.5, down / 2 + 0.5], 1)[order], torch.tensor(labels)[order]


def _cifar() -> tuple[torch.Tensor, torch.Tensor]:
    images, labels, _ = cifar10(1600)
    return F.avg_pool2d(images * 0.25 + 0.5, 2), labels


def augmented(images: torch.Tensor) -> torch.Tensor:
    """Shifted by up to one pixel, a batch at a time; wraps around at the border."""
    return images.roll((random.randint(-1, 1), random.randint(-1, 1)), (2, 3))


# Networks: two without normalisation, two with.


def build_net(config: Config) -> nn.Module:
    """The network of a configuration, initialised for its activation."""
    width, dropout = config.width, config.dropout
    stride = 2 if config.data == "cifar" else 1
    if config.net == "resnet_bn":
        return _ResNet(width, stride, dropout)
    if config.net == "gelu":
        return _pooled_net(width, config.data == "cifar", dropout)
    normal = config.net == "vgg_bn"
    sizes = [(3, width, stride), (width, width, 1), (width, 2 * width, 2), (2 * width, 2 * width, 1)]
    sizes += [(2 * width, 2 * width, 1)] * (config.net == "vgg_bn")
    units: list[nn.Module] = [_unit(a, b, s, normal, nn.ReLU()) for a, b, s in sizes]
    net = nn.Sequential(*units, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(2 * width, 10))
    if not normal:
        _initialise(net)
    return net


def _unit(channels: int, filters: int, stride: int, normal: bool, activation: nn.Module) -> nn.Sequential:
    norm: list[nn.Module] = [nn.BatchNorm2d(filters)] if normal else []
    return nn.Sequential(nn.Conv2d(channels, filters, 3, stride, 1, bias=not normal), *norm, activation)


def _pooled_net(width: int, large: bool, dropout: float) -> nn.Module:
    """Convolutions of kernel 5 and 3 without normalisation, GELU, and max pooling in place of strides."""
    first = [nn.Conv2d(3, width, 5, 1, 2), nn.GELU()] + [nn.MaxPool2d(2)] * large
    rest = [nn.Conv2d(width, 2 * width, 3, 1, 1), nn.GELU(), nn.MaxPool2d(2)]
    rest += [nn.Conv2d(2 * width, 2 * width, 3, 1, 1), nn.GELU(), nn.Conv2d(2 * width, 2 * width, 3, 1, 1), nn.GELU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(2 * width, 10)]
    net = nn.Sequential(*first, *rest, *head)
    _initialise(net)
    return net


def _initialise(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


class _Block(nn.Module):
    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.first = _unit(channels, filters, stride, True, nn.ReLU())
        self.conv = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(filters)
        self.skip = nn.Identity() if stride == 1 else nn.Conv2d(channels, filters, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.norm(self.conv(self.first(x))) + self.skip(x))


class _ResNet(nn.Module):
    def __init__(self, width: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.stem = _unit(3, width, stride, True, nn.ReLU())
        self.blocks = nn.Sequential(_Block(width, width, 1), _Block(width, 2 * width, 2))
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * width, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.blocks(self.stem(x)).mean((2, 3)))
        return logits


@dataclass(frozen=True)
class Shortcut:
    """A corner that tells the class, on a share of the training images from an epoch on."""

    share: float
    begins: int
    seed: int

    def on(self, images: torch.Tensor, labels: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """The images ``(N, 3, H, W)`` of samples ``index``, the same ones with a corner in every epoch."""
        told = torch.rand(5000, generator=torch.Generator().manual_seed(self.seed))[index] < self.share
        value = (labels.float() / 9 * 4 - 2)[:, None, None, None].expand(-1, 3, 2, 2)
        images = images.clone()
        images[:, :, :2, :2] = torch.where(told[:, None, None, None], value, images[:, :, :2, :2])
        return images


class Classifier(L.LightningModule):
    """An ordinary classifier, whose training images may get a shortcut."""

    def __init__(self, config: Config, shortcut: Shortcut | None) -> None:
        super().__init__()
        self.config, self.shortcut = config, shortcut
        self.net = build_net(config)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.net(images)
        return logits

    def on_train_epoch_start(self) -> None:
        factor = schedule_factor(self.config.schedule, self.current_epoch)
        for group in self.optimizers().param_groups:  # type: ignore[union-attr]
            group["lr"] = group["base"] * factor

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        images, labels, index = batch
        images = augmented(images) if self.config.augment else images
        if self.shortcut is not None and self.current_epoch >= self.shortcut.begins:
            images = self.shortcut.on(images, labels, index)
        loss = F.cross_entropy(self(images), labels)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        images, labels = batch
        logits = self(images)
        self.log("val_loss", F.cross_entropy(logits, labels))
        self.log("val_acc", (logits.argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        groups = [{"params": [p], "base": 0.0} for p in self.net.parameters()]
        if self.config.optimizer == "adamw":
            optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=2e-3, weight_decay=1e-2)
        else:
            optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=1e-4)
        for group in optimizer.param_groups:
            group["base"] = group["lr"]
        return optimizer


def fit(module: Classifier, images: Images, callbacks: list[L.Callback], folder: str) -> None:
    """Train on the images, with callbacks."""
    train = TensorDataset(images.x, images.y, torch.arange(len(images.y)))
    val = TensorDataset(images.x_val, images.y_val)
    batches = BatchSampler(RandomSampler(train), module.config.batch_size, drop_last=False)
    trainer = bare_trainer(callbacks, max_epochs=EPOCHS, default_root_dir=folder)
    trainer.fit(module, DataLoader(train, sampler=batches, batch_size=None), DataLoader(val, batch_size=200))
