"""What tools beside convscope measure, and whether training with them is the training without them.

``python -m benchmarks.peers`` (``--only`` for some) trains the network of the recipe ``digits``, three times as wide,
for two epochs of scikit-learn's digits, bare and watched by each tool as its own documentation shows it, from the same
seed. It prints whether the weights and buffers at the end are bitwise those of bare training, how many hooks are left
on the network, the processor's seconds of the fit, and what the tool gave. A tool that is not installed is said to be
missing; one that fails is reported with its error.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.zoo import declare_torchvision_operators

declare_torchvision_operators()  # before anything imports lightning

import lightning as L  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from lightning.pytorch.loggers import CSVLogger  # noqa: E402
from torch import nn  # noqa: E402

import convscope  # noqa: E402
from convscope.recipes.digits import DigitsCNN, digits_loaders  # noqa: E402

EPOCHS, WIDTH = 2, 48
Result = dict[str, Any]


def fit(model: L.LightningModule, *callbacks: L.Callback, logger: Any = False, loaders: Any = None) -> Result:
    """Train from the seed; state at the end, hooks left behind, the processor's seconds, and names of metrics."""
    loaders = loaders or digits_loaders()
    trainer = L.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=logger,
        log_every_n_steps=5,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    began = time.process_time()
    torch.manual_seed(1)
    trainer.fit(model, *loaders)
    seconds, logged = time.process_time() - began, sorted(trainer.callback_metrics)
    return {"state": _state(model), "hooks": hooks(model), "seconds": seconds, "logged": logged}


def network(cls: Callable[[], L.LightningModule] = lambda: DigitsCNN(WIDTH)) -> L.LightningModule:
    torch.manual_seed(0)
    return cls()


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def hooks(model: nn.Module) -> int:
    """Hooks on the modules, and on their parameters."""
    found = 0
    for module in model.modules():
        found += len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
    return found + sum(len(weight._backward_hooks or ()) for weight in model.parameters())


def same(bare: Result, watched: Result) -> str:
    """Whether the states of a bare and a watched run are equal, bit for bit."""
    one, other = bare["state"], watched["state"]
    different = [name for name in one if name not in other or not torch.equal(one[name], other[name])]
    return f"{len(different)} of {len(one)} tensors differ" if different else "bitwise equal"


def try_convscope(folder: Path) -> Result:
    found = fit(network(), *convscope.suite(), logger=CSVLogger(folder))
    values = (folder / "lightning_logs" / "version_0" / "metrics.csv").read_text(encoding="utf-8").split("\n")[0]
    return found | {"gave": f"{values.count('/')} series per layer or run"}


def try_wandb(folder: Path) -> Result:
    os.environ["WANDB_MODE"], os.environ["WANDB_SILENT"] = "offline", "true"
    from lightning.pytorch.loggers import WandbLogger

    logger = WandbLogger(project="peers", save_dir=folder, offline=True)
    model = network()
    logger.watch(model, log="all", log_freq=5)
    found = fit(model, logger=logger)
    names = list(logger.experiment.summary.keys())
    kept = [name for name in names if name.startswith(("gradients", "param"))]
    logger.experiment.finish()
    return found | {"gave": f"{len(kept)} histograms, such as {sorted(kept)[0]}"}


class Captum(L.Callback):
    """Layer activations × gradients of 500 held-out images after each epoch, as one would write it."""

    def __init__(self, where: str) -> None:
        self.where, self.found = where, {}

    def attribute(self, pl_module: L.LightningModule) -> None:
        from captum.attr import LayerGradientXActivation

        images, labels = digits_loaders()[1].dataset.tensors  # type: ignore[attr-defined]
        convs = {name: module for name, module in pl_module.named_modules() if isinstance(module, nn.Conv2d)}
        with torch.enable_grad():
            for name, conv in convs.items():
                given = LayerGradientXActivation(pl_module, conv).attribute(images, target=labels)
                self.found[name] = given.detach().abs().mean((0, 2, 3))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.where == "training":
            self.attribute(pl_module)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.where == "validation":
            self.attribute(pl_module)


def try_captum(folder: Path, where: str = "validation") -> Result:
    found = fit(network(), callback := Captum(where))
    return found | {"gave": f"attributions of {sum(len(one) for one in callback.found.values())} filters"}


def try_captum_in_training_mode(folder: Path) -> Result:
    return try_captum(folder, "training")


def try_delve(folder: Path) -> Result:
    import delve

    class Saturation(L.Callback):
        def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            self.tracker = delve.SaturationTracker(
                str(folder / "delve"), "csv", pl_module, device="cpu", stats=["lsat", "idim"]
            )

        def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            self.tracker.add_scalar("epoch", trainer.current_epoch)
            self.tracker.add_saturations()

        def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            self.tracker.close()

    found = fit(network(), Saturation())
    files = list(folder.rglob("*.csv"))
    columns = files[0].read_text(encoding="utf-8").split("\n")[0] if files else "nothing"
    return found | {"gave": columns}


class ByHand(DigitsCNN):
    """Manual optimisation, as cockpit's context around the backward pass needs; ``norm=False`` leaves out BatchNorm."""

    def __init__(self, norm: bool, watched: bool) -> None:
        super().__init__(WIDTH)
        self.automatic_optimization = False
        if not norm:
            for unit in self.features:
                if isinstance(unit, nn.Sequential):
                    unit[1] = nn.Identity()
        self.net = nn.Sequential(self.features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), self.head)
        self.loss_fn: nn.Module = nn.CrossEntropyLoss()
        self.watched, self.cockpit = watched, None
        self.step = 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.net.parameters(), lr=0.05)

    def on_fit_start(self) -> None:
        if self.watched:
            from backpack import extend
            from cockpit import Cockpit
            from cockpit.utils.configuration import configuration

            self.net, self.loss_fn = extend(self.net), extend(self.loss_fn)
            self.cockpit = Cockpit(self.net.parameters(), quantities=configuration("economy"))

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:  # type: ignore[override]
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        outputs = self.net(batch[0])
        loss = self.loss_fn(outputs, batch[1])
        if self.cockpit is None:
            self.manual_backward(loss)
        else:
            each = F.cross_entropy(outputs.detach(), batch[1], reduction="none")
            info = {
                "batch_size": len(batch[1]),
                "individual_losses": each,
                "loss": loss,
                "optimizer": optimizer.optimizer,
            }
            with self.cockpit(self.step, info=info):
                loss.backward(create_graph=self.cockpit.create_graph(self.step))
        optimizer.step()
        self.step += 1


def try_cockpit(folder: Path, norm: bool = False) -> Result:
    bare = fit(network(lambda: ByHand(norm, False)))
    model: Any = network(lambda: ByHand(norm, True))
    found = fit(model)
    names = sorted(type(each).__name__ for each in model.cockpit.quantities if each.output)
    return found | {"bare": bare, "gave": f"per step: {', '.join(names)}"}


def try_cockpit_with_batch_norm(folder: Path) -> Result:
    return try_cockpit(folder, norm=True)


def try_evidently(folder: Path) -> Result:
    import pandas as pd
    from evidently import Dataset, Report
    from evidently.presets import DataDriftPreset

    images = digits_loaders()[1].dataset.tensors[0]  # type: ignore[attr-defined]
    model: Any = network()

    def table() -> pd.DataFrame:
        model.eval()
        with torch.no_grad():
            pooled = model.features(images).mean((2, 3)).numpy()
        model.train()
        return pd.DataFrame(pooled).rename(columns="filter {}".format)

    before = table()
    found = fit(model)
    began = time.process_time()
    report = Report([DataDriftPreset()]).run(Dataset.from_pandas(table()), Dataset.from_pandas(before))
    count = report.dict()["metrics"][0]["value"]
    return found | {"gave": f"drifted columns {count}, in {time.process_time() - began:.1f} s more"}


def try_stable_pretraining(folder: Path) -> Result:
    import stable_pretraining as spt
    from stable_pretraining.callbacks.probe import OnlineProbe

    def forward(self: Any, batch: Any, stage: str) -> Any:
        images, labels = batch["image"], batch["label"]
        maps = self.features(images)
        batch["embedding"], batch["label"] = maps.mean((2, 3)), labels
        if stage == "fit":
            batch["loss"] = F.cross_entropy(self.head(batch["embedding"]), labels)
        return batch

    def module() -> Any:
        plain: Any = network()
        return spt.Module(
            forward=forward,
            features=plain.features,
            head=plain.head,
            optim={"optimizer": {"type": "AdamW", "lr": 3e-3}, "scheduler": "ConstantLR"},
            hparams={},
        )

    bare = _fit_dicts(module())
    watched = module()
    probe = OnlineProbe(
        watched, "probe", "embedding", "label", nn.Linear(2 * WIDTH, 10), nn.CrossEntropyLoss(), metrics=_accuracy()
    )
    found = _fit_dicts(watched, probe)
    return found | {"bare": bare, "gave": ", ".join(name for name in found["logged"] if "probe" in name)}


def _accuracy() -> Any:
    from torchmetrics.classification import MulticlassAccuracy

    return {"accuracy": MulticlassAccuracy(10)}


def _fit_dicts(model: Any, *callbacks: L.Callback) -> Result:
    from torch.utils.data import DataLoader

    def dicts(loader: Any, shuffle: bool) -> Any:
        images, labels = loader.dataset.tensors
        rows = [{"image": image, "label": label} for image, label in zip(images, labels, strict=True)]
        return DataLoader(rows, 64, shuffle=shuffle)  # type: ignore[arg-type]

    training, validation = digits_loaders()
    found = fit(model, *callbacks, loaders=(dicts(training, True), dicts(validation, False)))
    return found | {"state": {name: v for name, v in found["state"].items() if name.startswith(("features", "head"))}}


TOOLS: dict[str, tuple[str, Callable[[Path], Result]]] = {
    "convscope": ("convscope", try_convscope),
    "wandb.watch": ("wandb", try_wandb),
    "captum, validation mode": ("captum", try_captum),
    "captum, training mode": ("captum", try_captum_in_training_mode),
    "delve": ("delve", try_delve),
    "cockpit": ("cockpit-for-pytorch", try_cockpit),
    "cockpit, BatchNorm": ("cockpit-for-pytorch", try_cockpit_with_batch_norm),
    "evidently": ("evidently", try_evidently),
    "stable-pretraining": ("stable-pretraining", try_stable_pretraining),
}


def line(name: str, bare: Result) -> str:
    """A row of the table: what came of training with a tool."""
    package, attempt = TOOLS[name]
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return f"| {name} | not installed | | | | |"
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = attempt(Path(folder))
        except Exception as error:  # a tool's failure is what this table is about
            reason = " ".join(str(error).split())[:200]
            return f"| {name} | {version} | failed: {type(error).__name__}: {reason} | | | |"
    compared = found.get("bare", bare)
    ratio = found["seconds"] / compared["seconds"]
    return f"| {name} | {version} | {same(compared, found)} | {found['hooks']} | {ratio:.2f} | {found['gave'][:300]} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=TOOLS, default=list(TOOLS), help="tools (default all)")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    np.random.seed(0)
    fit(network())  # the first fit of a process is slower
    bare = fit(network())
    print(f"bare training: {bare['seconds']:.1f} s of the processor")
    print("| tool | version | training | hooks left | time ÷ bare | gave |\n|---|---|---|---|---|---|")
    for name in options.only:
        print(line(name, bare), flush=True)


if __name__ == "__main__":
    main()
