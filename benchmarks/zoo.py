"""Networks from other packages, built small and without weights, and a few by hand that do what real ones do."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

Size = tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """A network, the package that it needs (``""`` for none) and the size of one input."""

    name: str
    package: str
    build: Callable[[], nn.Module]
    size: Size = (3, 64, 64)


@functools.cache
def declare_torchvision_operators() -> None:
    """Let a CPU-only torch import a torchvision that was built for GPUs; to be called before anything imports it.

    torchmetrics imports torchvision where there is one, so this must come before ``import lightning``. A torchvision
    whose own library loads needs nothing.
    """
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None or torch.version.cuda is not None:
        return
    for library in Path(found.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(str(library))
            return
        except OSError:  # it wants the GPU libraries
            continue
    for operator in ("nms", "qnms"):
        _LIBRARY.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")


class Signal(nn.Module):
    """One-dimensional convolutions, dilated."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv1d(2, 6, 5, padding=2), nn.BatchNorm1d(6)
        self.second = nn.Conv1d(6, 8, 3, dilation=2, padding=2)
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.second(torch.relu(self.norm(self.first(x)))))
        logits: torch.Tensor = self.head(x.mean(2))
        return logits


class Frames(nn.Module):
    """A CNN of each frame, frames folded into the batch, and a GRU over them."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU())
        self.gru = nn.GRU(8, 7, batch_first=True)
        self.head = nn.Linear(7, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.cnn(x.flatten(0, 1)).mean((2, 3)).unflatten(0, x.shape[:2])
        logits: torch.Tensor = self.head(self.gru(features)[0][:, -1])
        return logits


class Shared(nn.Module):
    """One convolution in three places of a pass, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.step = nn.Conv2d(6, 6, 3, padding=1)
        self.alias = self.step
        self.head = nn.Linear(6, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        for layer in (self.step, self.alias, self.step):
            x = torch.relu(layer(x)) + x
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits


class Siamese(nn.Module):
    """Both halves of the input through one branch."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), nn.Conv2d(6, 8, 3), nn.PReLU())
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = self.branch(x[:, :, :16]), self.branch(x[:, :, 16:])
        logits: torch.Tensor = self.head((left - right).abs().mean((2, 3)))
        return logits


def _torchvision(name: str, size: Size = (3, 64, 64), family: str = "models", **options: Any) -> Entry:
    def build() -> nn.Module:
        models = importlib.import_module(f"torchvision.{family}")
        network: nn.Module = getattr(models, name)(weights=None, num_classes=10, **options)
        return network

    return Entry(f"torchvision {name}", "torchvision", build, size)


def _timm(name: str, size: Size = (3, 64, 64), **options: Any) -> Entry:
    def build() -> nn.Module:
        network: nn.Module = importlib.import_module("timm").create_model(
            name, pretrained=False, num_classes=10, **options
        )
        return network

    return Entry(f"timm {name}", "timm", build, size)


def _monai(name: str, size: Size, *arguments: Any, **options: Any) -> Entry:
    def build() -> nn.Module:
        network: nn.Module = getattr(importlib.import_module("monai.networks.nets"), name)(*arguments, **options)
        return network

    return Entry(f"monai {name} {len(size) - 1}-D", "monai", build, size)


def _transformers(name: str, size: Size = (3, 64, 64), **config: Any) -> Entry:
    def build() -> nn.Module:
        package = importlib.import_module("transformers")
        network: nn.Module = getattr(package, f"{name}ForImageClassification")(
            getattr(package, f"{name}Config")(num_labels=10, **config)
        )
        return network

    return Entry(f"transformers {name}", "transformers", build, size)


ZOO: list[Entry] = [
    Entry("1-D convolutions", "", Signal, (2, 40)),
    Entry("CNN of frames + GRU", "", Frames, (5, 3, 12, 12)),
    Entry("weight sharing", "", Shared, (3, 12, 12)),
    Entry("Siamese branches", "", Siamese, (3, 32, 12)),
    _torchvision("alexnet"),
    _torchvision("vgg11"),
    _torchvision("vgg11_bn"),
    _torchvision("resnet18"),
    _torchvision("resnext50_32x4d"),
    _torchvision("densenet121"),
    _torchvision("inception_v3", (3, 96, 96), init_weights=False),
    _torchvision("googlenet", init_weights=False),
    _torchvision("squeezenet1_1"),
    _torchvision("mobilenet_v2"),
    _torchvision("mobilenet_v3_small"),
    _torchvision("shufflenet_v2_x0_5"),
    _torchvision("mnasnet0_5"),
    _torchvision("efficientnet_b0"),
    _torchvision("regnet_y_400mf"),
    _torchvision("convnext_tiny"),
    _torchvision("swin_t"),
    _torchvision("r3d_18", (3, 4, 32, 32), "models.video"),
    _torchvision("lraspp_mobilenet_v3_large", family="models.segmentation", weights_backbone=None),
    _torchvision("deeplabv3_mobilenet_v3_large", family="models.segmentation", weights_backbone=None, aux_loss=True),
    _timm("test_resnet"),
    _timm("test_efficientnet"),
    _timm("test_byobnet"),
    _timm("test_convnext"),
    _timm("test_nfnet"),
    _timm("test_vit", img_size=64),
    _timm("legacy_seresnet18"),
    _timm("nf_regnet_b0"),
    _timm("resnetv2_50x1_bit"),
    _timm("mobilevit_xxs"),
    _timm("swin_tiny_patch4_window7_224", (3, 56, 56), img_size=56),
    _timm("convnextv2_atto"),
    _timm("ghostnet_050"),
    _timm("repvgg_a0"),
    _timm("edgenext_xx_small"),
    _timm("hrnet_w18_small"),
    _timm("xcit_nano_12_p16_224", img_size=64),
    _transformers("ResNet", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]),
    _transformers("ConvNext", hidden_sizes=[8, 16], depths=[1, 1], num_stages=2),
    _transformers("ConvNextV2", hidden_sizes=[8, 16], depths=[1, 1], num_stages=2),
    _transformers("MobileNetV1", depth_multiplier=0.25),
    _transformers("MobileNetV2", depth_multiplier=0.35),
    _transformers("RegNet", embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], groups_width=8),
    _transformers("PoolFormer", hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1]),
    _transformers("FocalNet", image_size=64, embed_dim=8, depths=[1, 1, 1, 1]),
    _transformers("Cvt", embed_dim=[8, 16, 16], num_heads=[1, 2, 2], depth=[1, 2, 3]),
    _transformers("MobileViT", image_size=64, hidden_sizes=[16, 16, 24], neck_hidden_sizes=[8, 8, 8, 16, 16, 24, 32]),
    _transformers("ViT", image_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2),
    _monai("resnet18", (1, 64, 64), spatial_dims=2, n_input_channels=1, num_classes=10),
    _monai("resnet10", (1, 16, 16, 16), spatial_dims=3, n_input_channels=1, num_classes=10),
    _monai("DenseNet121", (1, 64, 64), 2, 1, 10),
    _monai("SEResNet50", (1, 64, 64), spatial_dims=2, in_channels=1, num_classes=10),
    _monai("EfficientNetBN", (1, 64, 64), "efficientnet-b0", pretrained=False, in_channels=1, num_classes=10),
    _monai("UNet", (1, 32, 32), 2, 1, 3, (4, 8, 16), (2, 2), num_res_units=1),
    _monai("UNet", (1, 16, 16, 16), 3, 1, 3, (4, 8, 16), (2, 2)),
    _monai("SegResNet", (1, 32, 32), spatial_dims=2, init_filters=8, in_channels=1, out_channels=3),
]
