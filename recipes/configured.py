"""Train from a YAML file with LightningCLI, convscope's callbacks among what it sets.

Run ``python -m convscope.recipes.configured fit --config digits.yaml`` (``--help`` for options); docs/recipes.md has
such a file. Needs jsonargparse: ``pip install "convscope[cli]"``. Nothing is downloaded.
"""

from __future__ import annotations

import lightning as L
from torch.utils.data import DataLoader

from convscope.recipes.digits import DigitsCNN, digits_loaders


class DigitsData(L.LightningDataModule):
    """Scikit-learn's digits.

    Args:
        batch_size: Samples per training step.
        held_out: Number of validation samples.
    """

    def __init__(self, batch_size: int = 64, held_out: int = 500) -> None:
        super().__init__()
        self.loaders = digits_loaders(batch_size, held_out)

    def train_dataloader(self) -> DataLoader:
        return self.loaders[0]

    def val_dataloader(self) -> DataLoader:
        return self.loaders[1]


def main(arguments: list[str] | None = None) -> None:
    from lightning.pytorch.cli import LightningCLI

    LightningCLI(DigitsCNN, DigitsData, seed_everything_default=0, args=arguments)


if __name__ == "__main__":
    main()
