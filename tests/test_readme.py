"""What the README shows is run: its Python, and the files and commands that it names."""

from __future__ import annotations

import re
from pathlib import Path

import lightning as L
import pytest
from torch.utils.data import DataLoader

from tests.callbacks.conftest import Classifier, loaders

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


class Data(L.LightningDataModule):
    def train_dataloader(self) -> DataLoader:
        return loaders()[0]

    def val_dataloader(self) -> DataLoader:
        return loaders()[1]


def test_the_python_in_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"model": Classifier(), "datamodule": Data()}
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
        trainer = names["trainer"]
        assert isinstance(trainer, L.Trainer)
        if trainer.current_epoch == 0:  # the block only makes a trainer
            trainer.fit_loop.max_epochs = 2
            trainer.fit(Classifier(), datamodule=Data())
        assert any(key.startswith(("probe/", "alert")) for key in trainer.callback_metrics)


def test_the_two_lines_are_there_for_the_check_before_landing() -> None:
    for mark in ("run", "test"):
        block = README.split(f"<!-- {mark} -->")[1].split(f"<!-- /{mark} -->")[0]
        assert block.count("python3 -m venv .venv") == 1
