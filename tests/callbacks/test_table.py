"""The printed table in real fits: what it shows, when, and on terminals that cannot show it."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import convscope
from convscope.callbacks.parts.layer_observer import LayerObserver
from convscope.callbacks.table import column_titles
from tests.callbacks.conftest import Classifier
from tests.networks import Plain, images

ROOT = Path(__file__).parents[2]
Fit = Callable[..., Any]


def callbacks() -> list[Any]:
    heldout = convscope.HeldOut(images(24))
    given: dict[str, Any] = {"heldout": heldout, "on_error": "raise"}
    return [convscope.FilterCorrelation(**given), convscope.FilterHealth(**given), convscope.LayerTable()]


def small() -> Classifier:
    return Classifier(Plain(channels=3))


def titles(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(("before training", "epoch "))]


def test_a_table_alone_says_what_it_needs(fit: Fit, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        fit([convscope.LayerTable()], module=small(), max_epochs=1)
    (said,) = [record.getMessage() for record in caplog.records if "LayerTable" in record.getMessage()]
    assert "give some too, for example callbacks=[LayerProbe(), LayerTable()]" in said


def test_a_table_a_check_with_columns_of_every_callback(fit: Fit, capsys: Any) -> None:
    fit(callbacks(), module=small())
    shown = capsys.readouterr().out
    assert titles(shown) == ["before training", "epoch 0", "epoch 1"]
    head, first, second = shown.splitlines()[1:4]
    assert all(column in head for column in ("mean |ρ|", "eff. rank", "dead", "Δw/w"))
    assert [line.split()[0] for line in (head, first, second)] == ["layer", "net.conv1", "net.conv2"]


def test_no_table_where_no_check_was_made(fit: Fit, capsys: Any) -> None:
    observer = convscope.FilterCorrelation(heldout=convscope.HeldOut(images(24)), every_n_epochs=2, on_start=False)
    fit([observer, convscope.LayerTable()], module=small(), max_epochs=4)
    assert titles(capsys.readouterr().out) == ["epoch 1", "epoch 3"]


def test_without_validation_the_table_comes_at_the_end_of_the_training_epoch(fit: Fit, capsys: Any) -> None:
    fit(callbacks(), module=small(), limit_val_batches=0)
    assert titles(capsys.readouterr().out) == ["before training", "epoch 0", "epoch 1"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_a_terminal_without_our_characters_gets_others(fit: Fit, monkeypatch: Any, caplog: Any, encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict", write_through=True)
    monkeypatch.setattr(sys, "stdout", stream)
    run = fit(callbacks(), module=small())
    assert run.trainer.current_epoch == 2
    shown = stream.buffer.getvalue().decode(encoding)
    assert len(titles(shown)) == 3
    assert ("mean |ρ|" in shown, "mean |rho|" in shown) == ((True, False) if encoding == "utf-8" else (False, True))
    assert "LayerTable could not print" not in caplog.text


class Broken:
    """A terminal that is gone."""

    encoding = "utf-8"

    def __init__(self, error: Exception) -> None:
        self.error = error

    def write(self, text: str) -> int:
        raise self.error

    def flush(self) -> None:
        raise self.error


@pytest.mark.parametrize(
    "error", [BrokenPipeError("pipe"), ValueError("I/O operation on closed file"), OSError(28, "No space left")]
)
def test_a_terminal_that_is_gone_costs_the_table_and_one_line(
    fit: Fit, monkeypatch: Any, caplog: Any, error: Exception
) -> None:
    monkeypatch.setattr(sys, "stdout", Broken(error))
    run = fit(callbacks(), module=small())
    assert run.trainer.current_epoch == 2
    assert float(run.trainer.callback_metrics["zz_convscope/errors"]) == 0.0
    assert caplog.text.count("LayerTable could not print") == 1


def test_a_program_without_standard_output_trains_on(fit: Fit, monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert fit(callbacks(), module=small()).trainer.current_epoch == 2


FIT = """
import lightning as L, logging, sys, warnings
import convscope
from tests.callbacks.test_table import callbacks, small
from tests.callbacks.conftest import loaders
logging.basicConfig(stream=sys.stdout)
rule = {"name": "always", "when": [{"metric": "val_loss", "detector": {"kind": "threshold", "limit": -1}}],
        "message": "{metric} → {value:.2f} – слой", "severity": "critical"}
quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False, "logger": False}
watched = [*callbacks(), convscope.DriftAlert([rule], ["log"])]
trainer = L.Trainer(max_epochs=1, accelerator="cpu", callbacks=watched, **quiet)
trainer.fit(small(), *loaders())
print("done")
"""


ASCII = [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]


@pytest.mark.parametrize("variables", ASCII, ids=["io-encoding", "locale"])
def test_a_whole_program_on_an_ascii_terminal(tmp_path: Path, variables: dict[str, str]) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONIOENCODING", "LC_ALL", "LANG")}
    environment = {**kept, **variables, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    program = tmp_path / "program.py"
    program.write_text(FIT, encoding="utf-8")
    done = subprocess.run([sys.executable, str(program)], cwd=tmp_path, env=environment, capture_output=True)
    output, errors = done.stdout.decode("ascii"), done.stderr.decode("utf-8", "replace")
    assert done.returncode == 0, errors[-2000:]
    assert "mean |rho|" in output
    assert "val_loss -> " in output
    assert " - \\u0441\\u043b\\u043e\\u0439" in output
    assert "Logging error" not in errors
    assert output.endswith("done\n")


def test_no_two_callbacks_share_a_column() -> None:
    kinds: list[list[Any]] = [
        [convscope.LayerProbe(), convscope.LayerProbe(probe="knn"), convscope.LayerProbe(name="probe_2")],
        [convscope.FilterImportance(), convscope.FilterImportance(criterion="weight_l1")],
        [convscope.FilterImportance(), convscope.FilterImportance(name="importance_2")],
        [convscope.FilterCorrelation(), convscope.FilterCorrelation(name="raw", observe_at="conv")],
        [convscope.RepresentationDrift(), convscope.RepresentationDrift(name="drift_2", debiased=True)],
        [convscope.FilterHealth(), convscope.FilterHealth(name="health_2")],
        [convscope.LayerPrediction(), convscope.LayerPrediction(name="prediction_2")],
        [convscope.LayerSimilarity(), convscope.LayerSimilarity(name="similarity_2")],
        [convscope.ClassFilters(), convscope.ClassFilters(name="classes_2")],
        [convscope.ForwardFromLayer(), convscope.ForwardFromLayer(criterion="activation")],
        [convscope.AblationOracle(), convscope.AblationOracle(name="ablation_2")],
        convscope.suite("full"),
    ]
    for observers in kinds:
        titles = list(column_titles([one for one in observers if isinstance(one, LayerObserver)]).values())
        assert len(set(titles)) == len(titles)


def test_titles_carry_the_callback() -> None:
    both = [convscope.FilterImportance(), convscope.FilterImportance(criterion="weight_l1")]
    assert list(column_titles(both).values()) == ["gini (taylor)", "gini (weight_l1)"]
    two = [convscope.RepresentationDrift(), convscope.RepresentationDrift(name="drift_2")]
    assert list(column_titles(two).values()) == ["CKA prev (drift)", "CKA prev (drift_2)"]
    assert list(column_titles([convscope.FilterHealth()]).values()) == ["dead", "Δw/w"]


def test_each_column_shows_its_own_callbacks_numbers(fit: Fit, capsys: Any) -> None:
    given: dict[str, Any] = {"heldout": convscope.HeldOut(images(40)), "on_error": "raise"}
    probes = [convscope.LayerProbe(**given), convscope.LayerProbe(probe="knn", **given)]
    run = fit([*probes, convscope.LayerTable()], module=small(), max_epochs=1)
    lines = capsys.readouterr().out.splitlines()
    head = max(place for place, line in enumerate(lines) if line.startswith("layer "))
    titles = re.split(r"  +", lines[head].strip())
    shown = dict(zip(titles, lines[head + 1].split(), strict=True))
    for title, tag in (("probe acc (ridge)", "probe"), ("probe acc (knn)", "probe_knn")):
        value = float(run.trainer.callback_metrics[f"{tag}/accuracy/net.conv1"])
        assert float(shown[title]) == pytest.approx(value, abs=1e-3)


def test_a_wide_table_goes_on_below() -> None:
    from convscope.loggers import layer_table

    rows = {f"layer{n}.0.conv1": {f"a long column {c}": 0.5 for c in range(12)} for n in range(3)}
    lines = layer_table(rows, "epoch 1").splitlines()
    assert max(map(len, lines)) <= 100
    heads = [line for line in lines if line.startswith("layer ")]
    assert len(heads) > 1
    assert [c for head in heads for c in range(12) if f"a long column {c} " in f"{head} "] == list(range(12))
