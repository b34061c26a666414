"""Runs that the tab is measured on and pictured with: healthy, dying, corrupted labels, and one of 100 layers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import numpy.typing as npt
from lightning.pytorch.loggers import TensorBoardLogger

import convscope
from convscope.dashboard import form
from convscope.dashboard.quantities import describe
from convscope.loggers.record import TensorWriter
from convscope.recipes import dying_relu, label_corruption
from convscope.recipes.digits import DigitsCNN, digits_loaders

Row = npt.NDArray[np.float64]
_MEASURED = {
    "probe": ("accuracy",),
    "health": ("dead_filters", "not_learning", "gradient_rms", "update_ratio"),
    "drift": ("cka_previous",),
    "importance": ("gini",),
    "correlation": ("mean_abs",),
}
CHANCE = 0.1


def dying(folder: Path, epochs: int = 12, at_epoch: int = 7, factor: float = 6.0) -> None:
    """The recipe whose filters die, in ``folder/dying_relu/version_0``."""
    dying_relu.train(epochs, at_epoch, factor, folder)


def corrupted(folder: Path, epochs: int = 12, from_epoch: int = 7) -> None:
    """The recipe whose labels go wrong, in ``folder/label_corruption/version_0``."""
    label_corruption.train(epochs, from_epoch, 0.4, folder)


def healthy(folder: Path, epochs: int = 6) -> None:
    """The digits with every callback, in ``folder/digits_full/version_0``."""
    L.seed_everything(0)
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=TensorBoardLogger(folder, name="digits_full"),
        log_every_n_steps=5, callbacks=convscope.suite("full", convscope.HeldOut(size=400)),
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(DigitsCNN(), *digits_loaders())


def large(folder: Path, layers: int = 100, checks: int = 500, name: str = "backbone.stage{}.block{}.conv{}") -> None:
    """A record of made-up numbers: the deepest 30 layers lose what they knew at three fifths of the run."""
    names = [name.format(place // 25, place % 25 // 5, place % 5) for place in range(layers)]
    writer = TensorWriter(form.PLUGIN, folder)
    writer.write(form.SESSION, json.dumps({"begins": 0, "version": form.VERSION}), 0)
    writer.write(form.MANIFEST, json.dumps(_manifest(names)), 0)
    for check, rows in enumerate(_made_up(layers, checks)):
        step = check * 50
        for (family, quantity), row in rows.items():
            writer.write(form.values_tag(family, quantity), row.astype(np.float32), step)
        writer.write(form.summary_tag("probe"), np.array([CHANCE], dtype=np.float32), step)
        if check == checks * 3 // 5:
            writer.write(form.INCIDENTS, json.dumps([_incident(names[-30:], check, step)]), step)
        writer.write(form.CHECK, np.array([max(check - 1, 0), check, 2 if check else 0], dtype=np.int64), step)
    writer.close()


def _made_up(layers: int, checks: int) -> Iterator[dict[tuple[str, str], Row]]:
    random, depth, broken = np.random.default_rng(0), np.linspace(0, 1, layers), checks * 3 // 5
    for check in range(checks):
        time = check / max(checks - 1, 1)
        learnt = (1 - np.exp(-8 * time * (0.3 + depth))) * (0.4 + 0.6 * depth)
        accuracy = CHANCE + 0.85 * learnt + random.normal(0, 0.01, layers)
        dead = 0.02 * random.random(layers)
        if check >= broken:
            accuracy[-30:] *= 0.6
            dead[-30:-15] = 0.8
        yield {
            ("probe", "accuracy"): accuracy,
            ("health", "dead_filters"): dead,
            ("health", "not_learning"): np.zeros(layers),
            ("health", "gradient_rms"): 10 ** (-3 - 2 * depth - time),
            ("health", "update_ratio"): 10 ** (-2 - depth),
            ("drift", "cka_previous"): 1 - np.exp(-9 * time) * depth / 2,
            ("importance", "gini"): 0.3 + 0.3 * depth,
            ("correlation", "mean_abs"): 0.2 + 0.1 * depth,
        }


def _manifest(names: list[str]) -> dict[str, Any]:
    layers = [
        {"name": name, "kind": "Conv2d", "channels": 64, "spatial": [8, 8], "output": False, "order": place}
        for place, name in enumerate(names)
    ]
    families = {
        family: {
            "kind": family,
            "layers": names,
            "summary": ["chance"] if family == "probe" else [],
            "quantities": {quantity: describe(family, quantity) for quantity in quantities},
        }
        for family, quantities in _MEASURED.items()
    }
    return {"version": form.VERSION, "versions": {}, "layers": layers, "heldout": [], "families": families}


def _incident(layers: list[str], check: int, step: int) -> dict[str, Any]:
    opened = {"epoch": check - 1, "step": step, "check": check + 1}
    return {
        "incident": 1,
        "rule": "probe_collapse",
        "rules": ["probe_collapse"],
        "severity": "critical",
        "message": f"{layers[0]} lost 30 points of probe accuracy",
        "likely": "the learning rate",
        "look_at": "the first layer that fell",
        "layers": layers,
        "values": {f"probe/accuracy/{layers[0]}": 0.5},
        "expected": {f"probe/accuracy/{layers[0]}": 0.8},
        "opened": opened,
        "closed": None,
        **opened,
    }
