"""The record through real fits: what was logged, with any logger, after a resume, where it cannot be written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR

import convscope
from convscope.dashboard import find_runs, read_run
from tests.callbacks.conftest import Classifier

RULES = [
    {
        "name": "always",
        "message": "the loss is {value:.2f}",
        "when": [{"metric": "val_loss", "detector": {"kind": "threshold", "limit": -1.0}}],
        "cool_down": 0,
    }
]


def small(**arguments: Any) -> list[Any]:
    return [convscope.LayerProbe(**arguments), convscope.FilterCorrelation(**arguments)]


def test_the_record_is_what_was_logged_and_every_quantity_has_a_meaning(fit: Any) -> None:
    watched = [
        *small(curves="all"), convscope.FilterImportance(curves="all"), convscope.RepresentationDrift(curves="all"),
        convscope.FilterHealth(curves="all"), convscope.LayerSimilarity(), convscope.ClassFilters(),
        convscope.LayerPrediction(examples=2, curves="all"),
    ]  # fmt: skip
    run = fit([*watched, convscope.DriftAlert(RULES)], max_epochs=2)
    assert run.trainer.callback_metrics["zz_convscope/errors"] == 0
    record, events = read_run(run.trainer.log_dir), run.events
    assert (record.steps, record.triggers) == ([0, 3, 7], ["start", "validation", "validation"])
    compared = 0
    for family, tables in record.to_dict().items():
        for quantity, table in tables.items():
            for layer, column in zip(record.layers, table.T, strict=True):
                measured = np.isfinite(column)
                if measured.any():
                    curve = events.Scalars(f"{family}/{quantity}/{layer}")
                    assert [event.step for event in curve] == np.array(record.steps)[measured].tolist()
                    assert [event.value for event in curve] == pytest.approx(column[measured].tolist(), rel=1e-6)
                    compared += 1
            known = record.manifest["families"][family]["quantities"][quantity]
            assert known["meaning"] != quantity.replace("_", " "), (family, quantity)
            assert known["unit"], (family, quantity)
    assert compared > 100
    logged = [tag for tag in events.Tags()["scalars"] if tag.count("/") == 2 and not tag.startswith("alert")]
    assert compared == len(logged)
    np.testing.assert_allclose(
        record.summary("probe")["chance"], [event.value for event in events.Scalars("probe/chance")]
    )
    probability = record.array("prediction", "probability")
    assert probability.shape == (2, len(record.layers), 3)
    np.testing.assert_allclose(probability.astype(float).sum(2), 1.0, atol=5e-3)
    assert record.array("prediction", "layers") == record.layers
    assert {one["rule"] for one in record.incidents} == {"always"}
    assert record.pictures == [tag for tag in events.Tags()["images"] if tag in record.pictures]
    metadata = events.SummaryMetadata("convscope/values/probe/accuracy")
    assert (metadata.plugin_data.plugin_name, metadata.data_class) == ("convscope", DATA_CLASS_TENSOR)


@pytest.mark.parametrize("logger", ["csv", "none"])
def test_without_tensorboard_the_record_lies_in_the_folder_of_the_run(logger: str, fit: Any, tmp_path: Path) -> None:
    chosen: Any = CSVLogger(tmp_path, name="csv") if logger == "csv" else False
    run = fit(small(), logger=chosen, max_epochs=1)
    (folder,) = find_runs(tmp_path).values()
    assert folder == Path(chosen.log_dir) if chosen else folder.parent == tmp_path / "convscope"
    assert read_run(tmp_path).steps == [0, 3]
    assert run.trainer.callback_metrics["zz_convscope/errors"] == 0


@pytest.mark.parametrize("logger", ["tensorboard", "none"])
def test_a_resumed_run_goes_on_in_its_record(logger: str, fit: Any, tmp_path: Path) -> None:
    def chosen() -> Any:
        return TensorBoardLogger(tmp_path, name="run", version="one") if logger == "tensorboard" else False

    keep = ModelCheckpoint(tmp_path / "kept", save_top_k=-1, filename="{epoch}")
    fit([*small(), keep], logger=chosen(), max_epochs=2)
    fit(small(), logger=chosen(), max_epochs=3, ckpt_path=tmp_path / "kept" / "epoch=0.ckpt")
    record = read_run(tmp_path)
    assert len(list(record.folder.glob("*tfevents*"))) == 2
    assert (record.steps, record.epochs.tolist()) == ([0, 3, 7, 11], [0, 1, 2, 3])
    assert np.isfinite(record.values("correlation", "mean_abs")[:, :-1]).all()


def test_a_record_that_cannot_be_written_costs_one_line(fit: Any, tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "convscope").write_text("in the way")
    run = fit(small(), logger=False, max_epochs=2)
    assert run.trainer.global_step == 8
    assert sum("writing the record failed" in message for message in caplog.messages) == 1
    assert "probe/accuracy/net.conv1" in run.trainer.callback_metrics


def test_the_same_weights_with_and_without_a_record(fit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import lightning as L
    import torch

    from convscope.callbacks.engine.recording import RecordKeeper

    def weights() -> list[Any]:
        L.seed_everything(3)
        run = fit([*small(), convscope.LayerPrediction(examples=2)], module=Classifier(), max_epochs=1)
        return [weight.detach().clone() for weight in run.module.parameters()]

    with_it = weights()
    monkeypatch.setattr(RecordKeeper, "write", lambda *arguments: None)
    assert all(torch.equal(one, other) for one, other in zip(weights(), with_it, strict=True))
