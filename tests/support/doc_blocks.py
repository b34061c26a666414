"""Code blocks of the README and the docs, and what stands in for the reader's own files and objects in them.

Every block of Python, shell or YAML is tried by ``tests/test_doc_blocks.py``. A comment on the line before a block says
where that is done otherwise:

- ``<!-- run -->``: a program of its own, run alone in an empty folder; a shell line that the check before landing runs
- ``<!-- test -->``: the test line, run by the check before landing
- ``<!-- inside: path -->``: code of a file in the tree; ``tests/callbacks/test_extending.py`` tries it
- ``<!-- not run: why -->``: compiled, not run
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.core.datamodule import LightningDataModule
from torch.utils.data import DataLoader

import convscope
from convscope.alerts.series import SERIES_FILE
from tests.callbacks.conftest import Classifier, loaders
from tests.networks import TinyResNet

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SAMPLE = ROOT / "tests" / "dashboard" / "sample_v1"
BLOCK = re.compile(
    r"(?:<!-- (?P<mark>[^>]+) -->\n)?^```(?P<kind>python|bash|console|sh|yaml)\n(?P<code>.*?)^```",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """One block: page, line, language, the comment before it, its text."""

    page: str
    line: int
    kind: str
    mark: str
    code: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(*kinds: str) -> list[Block]:
    """Blocks of some languages, in the order of the pages."""
    found = []
    for page in PAGES:
        text, name = page.read_text(encoding="utf-8"), str(page.relative_to(ROOT))
        for match in BLOCK.finditer(text):
            line = text.count("\n", 0, match.start("code"))
            found.append(Block(name, line, match["kind"], match["mark"] or "", match["code"]))
    return [block for block in found if block.kind in kinds]


class Data(LightningDataModule):
    """A reader's DataModule: images of 3 × 16 × 16 in three classes."""

    def train_dataloader(self) -> DataLoader:
        return loaders()[0]

    def val_dataloader(self) -> DataLoader:
        return loaders()[1]


def usual_names() -> dict[str, Any]:
    """What a reader has at hand, on every page."""
    train_loader, val_loader = loaders()
    names: dict[str, Any] = {"model": Classifier(), "datamodule": Data()}
    return names | {"train_loader": train_loader, "val_loader": val_loader, "torchvision_resnet": TinyResNet(4)}


def names_of(page: str, folder: Path) -> dict[str, Any]:
    """What a page's blocks take for given, besides: objects, and files in ``folder``."""
    prepare = {"docs/alerts.md": _of_alerts, "docs/metrics/explainer.md": _of_explainer}.get(page)
    names = usual_names() | (prepare(folder) if prepare else {})
    if page == "docs/metrics/part-interpretability.md":
        names["model"].features = torch.nn.ModuleList([torch.nn.Identity()] * 7)
    return names


def _of_alerts(folder: Path) -> dict[str, Any]:
    rule = "- name: high\n  when: [{metric: val_loss, detector: {kind: threshold, limit: 9.0}}]\n"
    (folder / "rules.yaml").write_text(rule, encoding="utf-8")
    for number in range(20):
        run = folder / "lightning_logs" / f"version_{number}"
        run.mkdir(parents=True)
        line = {"run": number, "check": 0, "values": {"val_loss": 1.0 + number / 10}}
        (run / SERIES_FILE).write_text(f"{json.dumps(line)}\n", encoding="utf-8")
    return {"alert": convscope.DriftAlert(), "checks": [{"val_loss": 1.0}], "my_function": print}


def _of_explainer(folder: Path) -> dict[str, Any]:
    network = convscope.ExplainerNetwork(8, (4, 4), (3,))
    (folder / "checkpoints").mkdir()
    torch.save(network.saved(), folder / "checkpoints" / "explainer-epoch=4.pt")
    return {"features": torch.rand(2, 8, 4, 4)}


MODEL = """
from tests.support.doc_blocks import Data as MyDataModule
from tests.support.doc_blocks import Typed as LitNet
from tests.networks import TinyResNet as ModelClass
"""
"""Modules that commands in the docs name, with the reader's classes in them."""


class Typed(Classifier):
    """A network whose arguments are plain values, as a YAML file gives them."""

    def __init__(self, width: int = 4) -> None:
        super().__init__(TinyResNet(width, classes=3))
        self.save_hyperparameters()


RUNS = (
    "runs/dying_relu/version_0",
    "runs/nightly",
    "runs/a/version_0",
    "runs/b/version_0",
    "lightning_logs/version_0",
)
"""Recorded runs that commands in the docs name."""


def reader_files(folder: Path) -> None:
    """What commands in the docs name, in the current folder: recorded runs, checkpoints, modules, YAML."""
    for run in (
        "runs/dying_relu/version_0",
        "runs/nightly",
        "runs/a/version_0",
        "runs/b/version_0",
        "lightning_logs/version_0",
    ):
        shutil.copytree(SAMPLE, folder / run)
    for module in ("my_project/model.py", "my_project/data.py", "package/module.py"):
        (folder / module).parent.mkdir(exist_ok=True)
        (folder / module).write_text(MODEL, encoding="utf-8")
    (folder / "config.yaml").write_text(
        "model: {class_path: my_project.model.LitNet}\ndata: my_project.data.MyDataModule\n", encoding="utf-8"
    )
    (folder / "rules.yaml").write_text(
        (ROOT / "alerts" / "default_rules.yaml").read_text(encoding="utf-8"), encoding="utf-8"
    )
    (folder / "checkpoints").mkdir()
    content = {"epoch": 1, "global_step": 4, "pytorch-lightning_version": "2.6.6", "hyper_parameters": {"width": 4}}
    torch.save(content | {"state_dict": Typed(4).state_dict()}, folder / "checkpoints" / "epoch=1.ckpt")
