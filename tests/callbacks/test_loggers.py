"""What reaches each logger, read back from what the real package wrote."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from torch import nn

import convscope
from convscope.loggers import mlflow_name, read_jsonl, tag_of_mlflow_name
from tests.callbacks.conftest import Classifier

SHARED = "net.conv@2"  # Lightning's logger for MLflow would drop the @, which a second call of a layer has
PICTURE, HISTOGRAM = f"correlation/matrix/{SHARED}", f"importance/filters/{SHARED}"
SCALAR = f"importance/gini/{SHARED}"


class Twice(nn.Module):
    """One convolution that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.conv(torch.relu(self.conv(x))))
        return self.fc(x.mean((2, 3)))


ALWAYS = [
    {
        "name": "always",
        "message": "the loss is {value:.2f}",
        "when": [{"metric": "val_loss", "detector": {"kind": "threshold", "limit": -1.0}}],
    }
]


def callbacks(actions: Any = None) -> list[L.Callback]:
    return [
        convscope.FilterCorrelation(),
        convscope.FilterImportance(),
        convscope.DriftAlert(ALWAYS, actions),
    ]


def train(fit: Any, logger: Any, **arguments: Any) -> Any:
    run = fit(callbacks(), module=Classifier(Twice()), logger=logger, max_epochs=1, **arguments)
    assert run.trainer.callback_metrics["zz_convscope/errors"] == 0
    return run


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may land in the current directory by accident, and no service may be called."""
    (tmp_path / "current").mkdir()
    monkeypatch.chdir(tmp_path / "current")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


def assert_alerts_in(folder: Path) -> None:
    alerts = [record for record in read_jsonl(folder / "alerts.jsonl") if "event" not in record]
    assert [alert["rule"] for alert in alerts] == ["always"]
    assert not Path("alerts.jsonl").exists()


def test_csv_logger_has_files_beside_the_run(fit: Any, tmp_path: Path) -> None:
    run = train(fit, CSVLogger(tmp_path, name="csv"))
    folder = Path(run.trainer.logger.log_dir)
    files = folder / "convscope"
    for step in (0, 3):
        assert np.asarray(Image.open(files / PICTURE / f"step={step}.png")).shape[2] == 3
    lines = [json.loads(line) for line in (files / HISTOGRAM / "histograms.jsonl").read_text().splitlines()]
    assert [(line["step"], sum(line["counts"])) for line in lines] == [(0, 4), (3, 4)]
    assert "the loss is" in (files / "alerts/step=3.md").read_text()
    assert SCALAR in (folder / "metrics.csv").read_text()
    assert_alerts_in(folder)


def test_wandb_offline_has_media_in_the_row_of_their_check(fit: Any, tmp_path: Path) -> None:
    wandb = pytest.importorskip("wandb")
    from lightning.pytorch.loggers import WandbLogger

    settings = wandb.Settings(console="off")  # which would go on to catch what the tests after this one print
    run = train(fit, WandbLogger(save_dir=tmp_path, project="p", version="abc", offline=True, settings=settings))
    wandb.teardown()  # waits until all is on the disk
    (file,) = tmp_path.glob("wandb/offline-run-*-abc/run-abc.wandb")
    rows = [row for row in wandb_rows(file) if PICTURE in row]
    assert [row["trainer/global_step"] for row in rows] == [0, 3]
    for row in rows:
        assert row[PICTURE]["_type"] == "image-file"
        assert (file.parent / "files" / row[PICTURE]["path"]).exists()
        assert row[HISTOGRAM]["_type"] == "histogram"
        assert sum(row[HISTOGRAM]["values"]) == 4
        assert isinstance(row[SCALAR], float)
    (told,) = [row["alerts"] for row in wandb_rows(file) if "alerts" in row]
    table = json.loads((file.parent / "files" / told["path"]).read_text())
    assert "the loss is" in table["data"][0][1]
    assert_alerts_in(tmp_path / "p" / "abc")
    assert run.trainer.logger.experiment.id == "abc"


def wandb_rows(file: Path) -> Iterator[dict[str, Any]]:
    """History of a run's own file, which is in LevelDB's log format."""
    from wandb.proto.wandb_internal_pb2 import Record

    for data in leveldb_log(file.read_bytes()):
        record = Record.FromString(data)
        if record.WhichOneof("record_type") == "history":
            row: dict[str, Any] = {}
            for item in record.history.item:
                *outer, last = item.nested_key or [item.key]
                place = row
                for name in outer:
                    place = place.setdefault(name, {})
                place[last] = json.loads(item.value_json)
            yield row


def leveldb_log(data: bytes, header: int = 7, block: int = 32768) -> Iterator[bytes]:
    place, whole = header, b""
    while place + header <= len(data):
        if block - place % block < header:  # the rest of a block is filled up
            place += block - place % block
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        whole += data[place + header : place + header + length]
        place += header + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


def test_mlflow_has_artifacts_and_no_name_is_lost(fit: Any, tmp_path: Path, recwarn: Any) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy", reason="MLflow's sqlite store needs it")
    from lightning.pytorch.loggers import MLFlowLogger

    logger = MLFlowLogger("e", tracking_uri=f"sqlite:///{tmp_path}/m.db", artifact_location=str(tmp_path / "artifacts"))
    train(fit, logger)
    client, number = logger.experiment, logger.run_id
    names = client.get_run(number).data.metrics
    assert SCALAR in {tag_of_mlflow_name(name) for name in names}
    assert {metric.step for metric in client.get_metric_history(number, mlflow_name(SCALAR))} == {0, 3}
    assert not any("Replacing" in str(warning.message) for warning in recwarn)
    artifacts = tmp_path / "artifacts" / number / "artifacts"
    pictures = [path.name for path in (artifacts / "images").glob("*.png")]
    assert len([name for name in pictures if name.startswith(mlflow_name(PICTURE).replace("/", "~"))]) == 2
    histogram = json.loads((artifacts / "histograms" / mlflow_name(HISTOGRAM) / "step=3.json").read_text())
    assert sum(histogram["counts"]) == 4
    assert "the loss is" in (artifacts / "texts/alerts/step=3.md").read_text()
    assert_alerts_in(tmp_path / logger.experiment_id / number)
    assert "log_metrics" not in vars(logger)


def test_mlflow_takes_more_tags_than_one_batch_and_names_that_it_would_refuse(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy", reason="MLflow's sqlite store needs it")
    from lightning.pytorch.loggers import MLFlowLogger

    from convscope.callbacks.engine.bridge import scalars_renamed

    logger = MLFlowLogger("e", tracking_uri=f"sqlite:///{tmp_path}/m.db", artifact_location=str(tmp_path / "artifacts"))
    long = f"probe/accuracy/{'block.' * 60}"
    ours = {"probe/a//b": 1.0, "probe/../b": 2.0, "probe/é@:2": 3.0, long: 4.0}
    ours |= {f"probe/accuracy/{number}": 0.0 for number in range(1100)}
    with scalars_renamed(_Trainer(logger), ours.__contains__):  # type: ignore[arg-type]
        logger.log_metrics({**ours, "users own@": 5.0}, step=1)
    found = logger.experiment.get_run(logger.run_id).data.metrics
    assert len(found) == len(ours) + 1
    assert {tag_of_mlflow_name(name): value for name, value in found.items()}.items() >= {
        ("probe/a//b", 1.0), ("probe/../b", 2.0), ("probe/é@:2", 3.0), ("users own", 5.0),
    }  # fmt: skip
    (listed,) = (tmp_path / "artifacts").rglob("long_names.json")
    assert json.loads(listed.read_text()) == {mlflow_name(long): long}


class _Trainer:
    def __init__(self, *loggers: Any) -> None:
        self.loggers = list(loggers)


def test_comet_offline_has_assets(fit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("comet_ml")
    from lightning.pytorch.loggers import CometLogger

    monkeypatch.setenv("COMET_START_ONLINE", "0")  # online=False makes an experiment that Lightning 2.6 disables
    logger = CometLogger(offline_directory=str(tmp_path / "comet"), project="p")
    train(fit, logger)
    key = logger.version
    logger.experiment.end()
    (file,) = (tmp_path / "comet").glob(f"{key}*.zip")
    with zipfile.ZipFile(file) as bundle:
        lines = [json.loads(line) for line in bundle.read("messages.json").decode().splitlines()]
        payloads = [line["payload"] for line in lines]
        (text,) = [
            bundle.read(one["file_path"]).decode() for one in payloads if one.get("metadata") == {"tag": "alerts"}
        ]
    more = [one["additional_params"] for one in payloads if "additional_params" in one]
    assert [one["step"] for one in more if one.get("figName") == PICTURE] == [0, 3]
    assert [one["step"] for one in more if one.get("fileName") == HISTOGRAM] == [0, 3]
    assert "the loss is" in text
    assert any(payload.get("metric", {}).get("metricName") == SCALAR for payload in payloads)
    assert_alerts_in(tmp_path / "comet" / "p" / key)


def test_two_loggers_of_which_one_fails(fit: Any, tmp_path: Path, caplog: Any) -> None:
    class Failing(CSVLogger):
        """Its pictures cannot be written: a file lies where their folder would be."""

    failing = Failing(tmp_path, name="failing")
    Path(failing.log_dir).mkdir(parents=True)
    (Path(failing.log_dir) / "convscope").write_text("in the way")
    good = TensorBoardLogger(tmp_path, name="good")
    run = fit(callbacks(), module=Classifier(Twice()), logger=[good, failing], max_epochs=2)
    assert run.trainer.global_step == 8
    assert sum("writing pictures to Failing failed" in message for message in caplog.messages) == 1
    assert {PICTURE} <= set(run.events.Tags()["images"])
    assert {HISTOGRAM} <= set(run.events.Tags()["histograms"])
    assert SCALAR in (Path(failing.log_dir) / "metrics.csv").read_text()
    assert_alerts_in(Path(good.log_dir))


def test_two_loggers_get_the_same_pictures_drawn_once(fit: Any, tmp_path: Path, monkeypatch: Any) -> None:
    from convscope.callbacks.engine import pictures

    drawn: list[str] = []
    draw = pictures.correlation_heatmap
    monkeypatch.setattr(
        pictures, "correlation_heatmap", lambda matrix, title, order: drawn.append(title) or draw(matrix, title, order)
    )
    csv, board = CSVLogger(tmp_path, name="csv"), TensorBoardLogger(tmp_path, name="board")
    run = train(fit, [board, csv])
    assert len(drawn) == 2 * 3  # checks times layers
    shown = run.events.Images(PICTURE)[1].encoded_image_string
    filed = Path(csv.log_dir) / "convscope" / PICTURE / "step=3.png"
    import io

    assert np.array_equal(np.asarray(Image.open(io.BytesIO(shown))), np.asarray(Image.open(filed)))


def test_without_a_logger_training_goes_on_and_alerts_lie_in_the_root(fit: Any, tmp_path: Path) -> None:
    train(fit, False)
    assert_alerts_in(tmp_path)
