"""Find wrong labels in the training data: which samples do the layers disagree about?

Run ``python -m convscope.recipes.label_noise`` (``--help`` for options). A tenth of scikit-learn's digits get a wrong
label, and a small CNN is trained on them. LayerPrediction watches the training samples themselves. It reads each layer
out without the sample that it judges, so that a memorised label does not hide. Nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, TensorDataset

import convscope
from convscope.recipes._program import command_line, where_to_look
from convscope.recipes.digits import DigitsCNN, digits_loaders


def with_wrong_labels(data: TensorDataset, share: float) -> tuple[TensorDataset, torch.Tensor]:
    """The images with a share of the labels changed to another class, and which those are ``(N,)``."""
    images, labels = data.tensors
    generator = torch.Generator().manual_seed(0)
    wrong = torch.zeros(len(labels), dtype=torch.bool)
    wrong[torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]] = True
    moved = (labels + torch.randint(1, 10, labels.shape, generator=generator)) % 10
    return TensorDataset(images, torch.where(wrong, moved, labels)), wrong


class Trust(L.Callback):
    """Sums over checks, for each sample, of what its label is believed by the output and by all layers."""

    def __init__(self, prediction: convscope.LayerPrediction) -> None:
        self.prediction, self.checks = prediction, 0
        self.by_output = self.by_layers = self.depth = torch.zeros(())

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        found = self.prediction.latest
        if found is None or len(self.prediction.history.epochs) == self.checks:
            return
        self.checks = len(self.prediction.history.epochs)
        self.numbers = found.numbers
        self.by_output = self.by_output + found.of_truth[-1]
        self.by_layers = self.by_layers + found.of_truth.mean(0)
        self.depth = self.depth + found.depth.float()


def train(epochs: int, share: float, logdir: Path) -> tuple[L.Trainer, Trust, torch.Tensor]:
    """Train on labels of which a share is wrong; the trainer, what was found, and which labels are wrong."""
    L.seed_everything(0)
    clean, val = digits_loaders()
    data, wrong = with_wrong_labels(clean.dataset, share)  # type: ignore[arg-type]
    heldout = convscope.HeldOut(data, size=len(data))
    prediction = convscope.LayerPrediction(heldout=heldout)
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=TensorBoardLogger(logdir, name="label_noise"),
        log_every_n_steps=5,
        callbacks=[prediction, trust := Trust(prediction)],
    )
    trainer.fit(DigitsCNN(), DataLoader(data, 64, shuffle=True), val)
    return trainer, trust, wrong[trust.numbers]


def report(trust: Trust, wrong: torch.Tensor) -> dict[str, float]:
    """Print how well each measure finds the wrong labels: area under the ROC curve, and precision among the first."""
    from sklearn.metrics import roc_auc_score

    measures = {
        "the layers' belief in the label": -trust.by_layers,
        "the output's belief in the label": -trust.by_output,
        "decision depth": trust.depth,
    }
    found = {}
    count = int(wrong.sum())
    print(f"\n{count} of {len(wrong)} labels are wrong\n\n| measure | AUC | wrong among the first {count} |")
    print("|---|---|---|")
    for name, doubt in measures.items():
        found[name] = float(roc_auc_score(wrong.numpy(), doubt.numpy()))
        first = doubt.argsort(descending=True, stable=True)[:count]
        print(f"| {name} | {found[name]:.3f} | {float(wrong[first].double().mean()):.0%} |")
    worst = trust.by_layers.argsort(stable=True)[:10]
    print(f"\nLook at these samples first: {', '.join(str(int(trust.numbers[row])) for row in worst)}")
    return found


def main() -> None:
    parser = command_line(__doc__, epochs=8)
    parser.add_argument("--share", type=float, default=0.1, help="share of wrong labels (default 0.1)")
    options = parser.parse_args()
    trainer, trust, wrong = train(options.epochs, options.share, options.logdir)
    report(trust, wrong)
    where_to_look(trainer)


if __name__ == "__main__":
    main()
