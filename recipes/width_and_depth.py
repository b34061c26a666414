"""Which layers add nothing, and which have no room? Read a run for advice on depth and width, and try it.

Run ``python -m convscope.recipes.width_and_depth`` (``--help`` for options). A deep and narrow CNN learns
scikit-learn's digits. A layer adds nothing if a linear probe reads no more from it than from any layer before,
within two standard errors; it has no room if its features spread over most of its filters (effective rank divided
by filters above 0.7). The network is then trained again without the layers that add nothing, and with twice the
filters. Nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path

import lightning as L
import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

import convscope
from convscope.recipes._program import command_line, where_to_look
from convscope.recipes.digits import DigitsCNN, conv_unit, digits_loaders

HELD_OUT = 500


class Plain(DigitsCNN):
    """A chain of conv units of one width with a pooling after the first third."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__(width)
        units = [conv_unit(1 if place == 0 else width, width) for place in range(depth)]
        self.features = nn.Sequential(*units[: depth // 3], nn.MaxPool2d(2), *units[depth // 3 :])
        self.head = nn.Linear(width, 10)


def train(width: int, depth: int, epochs: int, logdir: Path) -> L.Trainer:
    """Train one network with probes and correlation on the held-out samples."""
    L.seed_everything(0, verbose=False)
    heldout = convscope.HeldOut(size=HELD_OUT)
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=TensorBoardLogger(logdir, name="width_and_depth"),
        log_every_n_steps=5,
        enable_model_summary=False,
        enable_progress_bar=False,
        callbacks=[convscope.LayerProbe(heldout=heldout), convscope.FilterCorrelation(heldout=heldout)],
    )
    trainer.fit(Plain(width, depth), *digits_loaders(held_out=HELD_OUT))
    return trainer


def advice(run: convscope.dashboard.Run) -> tuple[list[str], list[str]]:
    """Layers that add nothing, and layers without room, at the last check; print the numbers that say so."""
    layers = [name for name in run.layers if name != "output"]
    accuracy = dict(zip(run.layers, run.values("probe", "accuracy")[-1].tolist(), strict=True))
    rank = dict(zip(run.layers, run.values("correlation", "effective_rank_ratio")[-1].tolist(), strict=True))
    print("\n| layer | probe accuracy | gain | effective rank ÷ filters | advice |\n|---|---|---|---|---|")
    idle, full, best = [], [], 0.0
    for place, layer in enumerate(layers):
        gain = accuracy[layer] - best
        error = np.sqrt(2 * accuracy[layer] * (1 - accuracy[layer]) / HELD_OUT)
        told = []
        if place and gain < 2 * error:
            idle.append(layer)
            told.append("adds nothing")
        if rank[layer] > 0.7:
            full.append(layer)
            told.append("no room")
        best = max(best, accuracy[layer])
        print(f"| {layer} | {accuracy[layer]:.3f} | {gain:+.3f} | {rank[layer]:.2f} | {', '.join(told) or '–'} |")
    return idle, full


def main() -> None:
    parser = command_line(__doc__, epochs=8)
    parser.add_argument("--width", type=int, default=6, help="filters per layer (default 6)")
    parser.add_argument("--depth", type=int, default=9, help="conv layers (default 9)")
    options = parser.parse_args()
    trainer = train(options.width, options.depth, options.epochs, options.logdir)
    idle, _ = advice(convscope.read_run(str(trainer.log_dir)))
    shallower = max(3, options.depth - len(idle))
    print("\n| filters | layers | weights | val_acc | val_loss |\n|---|---|---|---|---|")
    for width, depth in ((options.width, options.depth), (options.width, shallower), (2 * options.width, shallower)):
        tried = (
            trainer
            if (width, depth) == (options.width, options.depth)
            else train(width, depth, options.epochs, options.logdir)
        )
        found, size = tried.callback_metrics, sum(weight.numel() for weight in tried.lightning_module.parameters())
        print(f"| {width} | {depth} | {size:,} | {float(found['val_acc']):.3f} | {float(found['val_loss']):.3f} |")
    where_to_look(trainer)


if __name__ == "__main__":
    main()
