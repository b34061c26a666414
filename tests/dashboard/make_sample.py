"""Makes ``sample_v<version>``, a small record that later versions must still read.

A sample is made once for each version of the record, and never changed.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import lightning as L
import numpy as np

import convscope
from convscope.dashboard import form, read_run
from tests.callbacks.conftest import Classifier, loaders

RULES = [
    {
        "name": "always",
        "message": "the loss is {value:.2f}",
        "when": [{"metric": "val_loss", "detector": {"kind": "threshold", "limit": -1.0}}],
    }
]


def main() -> None:
    L.seed_everything(0)
    target = Path(__file__).parent / f"sample_v{form.VERSION}"
    target.mkdir()
    watched = [
        convscope.LayerProbe(), convscope.FilterImportance(), convscope.FilterCorrelation(),
        convscope.LayerPrediction(examples=2), convscope.FilterPictures(layers="net.conv1", filters=1, images=1),
        convscope.DriftAlert(RULES, []),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            max_epochs=1, logger=False, callbacks=watched, accelerator="cpu", default_root_dir=folder,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(Classifier(), *loaders())
        (file,) = Path(folder).rglob("*tfevents*")
        shutil.copy(file, target / "events.out.tfevents.1.sample.1.0.convscope")
    run = read_run(target)
    expected = {
        "layers": run.layers,
        "steps": run.steps,
        "incidents": [one["rule"] for one in run.incidents],
        "order": run.correlation("correlation", run.layers[0]).order.tolist(),  # type: ignore[union-attr]
        "values": {
            family: {quantity: _plain(table) for quantity, table in tables.items()}
            for family, tables in run.to_dict().items()
        },
    }
    (target / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def _plain(table: np.ndarray) -> list[list[float | None]]:
    return [[None if np.isnan(value) else float(value) for value in row] for row in table]


if __name__ == "__main__":
    main()
