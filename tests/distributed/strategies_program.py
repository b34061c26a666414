"""One fit under any strategy: ``python -m tests.distributed.strategies_program FOLDER STRATEGY DEVICES MODE``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import ModelParallelStrategy

import convscope
from convscope.recipes._program import leave_the_processes
from tests.callbacks.conftest import Classifier, loaders
from tests.support.trainers import quiet_trainer


class Sharded(Classifier):
    """Parameters divided over processes: each block and the rest (FSDP2)."""

    def configure_model(self) -> None:
        from torch.distributed.fsdp import fully_shard

        if not isinstance(self.trainer.strategy, ModelParallelStrategy):
            return
        mesh = self.device_mesh["data_parallel"]
        for block in (self.net.layer1, self.net.layer2):
            fully_shard(block, mesh=mesh)
        fully_shard(self.net, mesh=mesh)


class Report(L.Callback):
    """Writes what this process ended with; a spawned process brings nothing else back."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        heldout = next((c.heldout for c in trainer.callbacks if hasattr(c, "heldout")), None)
        result = {
            "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
            "epochs": trainer.current_epoch,
            "weights": {name: whole(p).flatten().tolist() for name, p in pl_module.named_parameters()},
            "gradients": sum(p.grad is not None for p in pl_module.parameters()),
            "kinds": sorted({type(p).__name__ for p in pl_module.parameters()}),
            "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in pl_module.modules()),
            "local": 0 if heldout is None else len(heldout.index),
        }
        Path(f"{self.path}-{trainer.global_rank}.json").write_text(json.dumps(result))


def whole(parameter: Any) -> torch.Tensor:
    return (parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter).detach()


def observers() -> list[Any]:
    heldout = convscope.HeldOut(size=29, batch_size=4)  # uneven shares
    given: dict[str, Any] = {"heldout": heldout, "on_error": "raise"}
    kinds = [convscope.LayerProbe, convscope.FilterCorrelation, convscope.FilterHealth, convscope.RepresentationDrift]
    criteria = ["taylor", "activation", "weight_l1", "batchnorm"]
    importances = [convscope.FilterImportance(criterion=criterion, **given) for criterion in criteria]
    return [*importances, *(kind(**given) for kind in kinds)]


def main(folder: Path, strategy: str, devices: int, mode: str) -> None:
    """Train; with ``still`` the network does not move, so that all strategies see one network."""
    L.seed_everything(0, workers=True, verbose=False)
    module = Sharded(lr=0.0 if mode == "still" else 0.05)
    for norm in module.net.modules():
        if isinstance(norm, torch.nn.BatchNorm2d) and mode == "still":
            norm.momentum = 0.0  # each process sees other training batches
    accelerator, _, chosen = strategy.rpartition(":")
    together = devices if chosen == "tensor_parallel" else 1
    sharded = ModelParallelStrategy(data_parallel_size=devices // together, tensor_parallel_size=together)
    callbacks = [Report(folder / f"{strategy}-{devices}-{mode}")]
    if mode != "alone":
        callbacks = [*observers(), ModelCheckpoint(folder / strategy, save_last=True), *callbacks]
    trainer = quiet_trainer(
        folder,
        accelerator=accelerator or "cpu",
        devices=devices,
        strategy=sharded if chosen.endswith("_parallel") else chosen,
        max_epochs=2,
        logger=TensorBoardLogger(folder, name=f"{strategy}-{mode}"),
        callbacks=callbacks,
        enable_checkpointing=mode != "alone",
    )
    trainer.fit(module, *loaders())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4])
    leave_the_processes()
