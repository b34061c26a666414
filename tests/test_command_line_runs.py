"""``convscope report``, ``compare``, ``run`` and ``rules`` as a person types them; mistakes are one line each."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
from lightning.pytorch.loggers import CSVLogger
from torch.utils.tensorboard import SummaryWriter

import convscope
from convscope.__main__ import main
from convscope._compared import pairs
from convscope.dashboard import form, read_run
from convscope.loggers.record import TensorWriter
from tests.callbacks.conftest import Classifier, loaders
from tests.support.records import Checks

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "tests" / "dashboard" / "sample_v1"
RULE = """
- name: high
  when: [{metric: val_loss, detector: {kind: threshold, limit: 0.0}}]
  message: "the loss is {value:.2f}"
- name: never
  when: [{metric: nothing/*, detector: {kind: threshold, limit: 0.0}}]
"""


def run(*arguments: object) -> int:
    return main([str(one) for one in arguments])


def test_a_report_and_its_exports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, table, whole = tmp_path / "r.html", tmp_path / "r.csv", tmp_path / "r.json"
    assert run("report", SAMPLE, "-o", page, "--csv", table, "--json", whole) == 0
    printed = capsys.readouterr().out
    assert "dashboard/sample_v1: 2 checks of 7 layers from before training to epoch 0" in printed
    assert printed.count("written: ") == 3
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert len(table.read_text(encoding="utf-8").splitlines()) == 1 + len(json.loads(whole.read_text())["rows"])


def test_a_report_without_a_name_and_data_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("report", SAMPLE, "--csv", "all.csv") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["all.csv"]
    assert run("report", SAMPLE) == 0
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize(("least", "status"), [("info", 3), ("warning", 3), ("critical", 0)])
def test_fail_on_incidents(tmp_path: Path, least: str, status: int) -> None:
    assert run("report", SAMPLE, "--csv", tmp_path / "r.csv", "--fail-on", least) == status


def test_a_folder_of_several_runs_is_one_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        shutil.copytree(SAMPLE, tmp_path / "logs" / name)
    assert run("report", tmp_path / "logs", "-o", tmp_path / "r.html") == 0
    assert {"logs/one: 2 checks", "logs/two: 2 checks"} <= {
        line.split(" of ")[0] for line in capsys.readouterr().out.splitlines()
    }
    assert "Report on 2 runs" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_compare_prints_both_and_their_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = Checks(tmp_path / "a", [4, 4]), Checks(tmp_path / "b", [4, 4, 4])
    second.random.random(3)
    for checks in (first, second):
        for observer in checks.observers:
            observer.charts = {}
        checks.write(0)
    assert run("compare", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "both.html") == 0
    out = capsys.readouterr().out
    one, other = (read_run(tmp_path / name).values("probe", "quantity_0")[-1] for name in "ab")
    row = next(line.split() for line in out.splitlines() if line.startswith("net.stage0.block0.conv1"))
    assert float(row[1]) == pytest.approx(one[0], abs=1e-3)
    assert float(row[2]) == pytest.approx(other[0], abs=1e-3)
    assert float(row[3]) == pytest.approx(other[0] - one[0], abs=1e-3)
    assert "Layers are matched by name." in out
    assert "block2" not in out  # in the other one only
    assert (tmp_path / "both.html").exists()


def test_layers_without_a_common_name_are_compared_by_depth() -> None:
    matched, how = pairs(["a", "b", "output"], ["v", "w", "x", "y", "output"])
    assert [label for label, _, _ in matched] == ["a | v", "b | w", "b | x", "output | y", "output"]
    assert how == "relative depth"


@pytest.mark.parametrize("command", ["report", "compare", "rules"])
@pytest.mark.parametrize("fault", ["no folder", "no runs", "no record", "newer"])
def test_what_is_no_recorded_run_costs_one_line(
    command: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs"
    if fault != "no folder":
        folder.mkdir()
    if fault == "no record":
        with SummaryWriter(str(folder)) as writer:
            writer.add_scalar("loss", 1.0, 0)
    if fault == "newer":
        newer = TensorWriter(form.PLUGIN, folder)
        newer.write(form.MANIFEST, json.dumps({"version": form.VERSION + 1}), 0)
        newer.close()
    before = ["test", "default"] if command == "rules" else []
    assert run(command, *before, folder, *([folder] if command == "compare" else [])) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    step = {"no folder": "give a run's folder", "no runs": "there is no run here: give", "no record": "train with its",
            "newer": "install the newer one"}  # fmt: skip
    assert step[fault] in error


def test_too_many_runs_and_unequal_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(21):
        shutil.copytree(SAMPLE, tmp_path / "many" / str(number))
    assert run("report", tmp_path / "many") == 2
    assert "there are 21 runs: name at most 20 of them" in capsys.readouterr().err
    assert run("compare", SAMPLE, SAMPLE) == 2
    assert "1 runs are found; give the folders of two" in capsys.readouterr().err
    Checks(tmp_path / "other", [4]).write(0)
    assert run("compare", tmp_path / "many" / "1", tmp_path / "other") == 2
    assert "have no quantity in common" in capsys.readouterr().err
    assert run("report", SAMPLE, "-o", tmp_path / "no" / "folder.html") == 2
    assert "make it, or give a file in one that there is" in capsys.readouterr().err


def test_rules_find_offline_what_they_found_live(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rules.yaml").write_text(RULE, encoding="utf-8")
    alert = convscope.DriftAlert(str(tmp_path / "rules.yaml"), [])
    trainer = L.Trainer(
        max_epochs=3, default_root_dir=tmp_path, callbacks=[convscope.LayerProbe(), alert], accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(Classifier(), *loaders())
    assert run("rules", "test", tmp_path / "rules.yaml", trainer.log_dir) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.endswith("3 checks, 1 incidents")
    (incident,) = alert.incidents
    assert lines[0] == f"  {incident.duration}: [warning] high: {incident.text}"
    assert lines[1] == "  never cannot fire: nothing matches nothing/*"


def test_the_default_rules_judge_a_record_as_they_judged_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also what is in no table: losses, the learning rate, training batches; checks after every other validation."""
    L.seed_everything(0, verbose=False)
    alert = convscope.DriftAlert(actions=[])
    trainer = L.Trainer(
        max_epochs=6, default_root_dir=tmp_path, accelerator="cpu", logger=CSVLogger(tmp_path), num_sanity_val_steps=0,
        callbacks=[*convscope.suite(alerts=False, every_n_epochs=2), alert],
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(Faulty(), *loaders())
    assert any("learning rate" in one.changed for one in alert.incidents)
    run_ = read_run(next(tmp_path.rglob("*tfevents*")).parent)
    assert [epoch for epoch, _, _ in run_.logged] == list(range(6))
    assert all({"train_loss", "val_loss", "convscope/learning_rate"} <= set(values) for _, _, values in run_.logged)
    capsys.readouterr()
    assert run("rules", "test", "default", run_.folder) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.endswith(f"6 checks, {len(alert.incidents)} incidents")
    assert lines[: len(alert.incidents)] == [
        f"  {one.duration}: [{one.severity}] {one.rule}: {one.text}" for one in alert.incidents
    ]
    (rest,) = lines[len(alert.incidents) :]
    idle = set(alert._judge.watch.inactive())
    assert {part.split(" (")[0] for part in rest.split(": ")[1].split("), ")} == idle


class Faulty(Classifier):
    """Steps forty times as large in epoch 3."""

    def on_train_epoch_start(self) -> None:
        rate = 2.0 if self.current_epoch == 3 else 0.05
        for group in self.optimizers().param_groups:  # type: ignore[union-attr]
            group["lr"] = rate


def test_rules_are_calibrated_on_the_series_of_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(5):
        trainer = L.Trainer(
            max_epochs=2, default_root_dir=tmp_path, callbacks=[convscope.DriftAlert(actions=[], series=True)],
            enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, accelerator="cpu",
            logger=CSVLogger(tmp_path / "runs", version=number),
        )  # fmt: skip
        trainer.fit(Classifier(), *loaders())
    assert run("rules", "calibrate", tmp_path / "runs", "--false-alarms", 0.2, "-o", tmp_path / "mine.yaml") == 0
    assert "these 5" in capsys.readouterr().out
    assert run("rules", "list", tmp_path / "mine.yaml") == 0
    capsys.readouterr()
    assert run("rules", "calibrate", tmp_path / "runs", "--false-alarms", 0.05, "-o", tmp_path / "no.yaml") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "no.yaml").exists()


def test_rules_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("rules", "list") == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].split() == ["name", "severity", "watches"]
    assert [row.split()[0] for row in rows[1:]] == [rule.name for rule in convscope.rules.default()]
    (tmp_path / "mine.yaml").write_text(RULE, encoding="utf-8")
    assert run("rules", "list", tmp_path / "mine.yaml") == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["high", "warning", "val_loss"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- name: [", "this is not YAML that the safe loader reads"),
        ("name: x", "give a list of rules"),
        ("- {name: x}", "field when: is missing"),
        ("- name: x\n  when: []", "give a list of at least one condition"),
        (None, "there is no such file; give a YAML file of rules, or 'default'"),
    ],
)
@pytest.mark.parametrize("command", [("list",), ("test",)])
def test_unreadable_rules_cost_one_line(
    text: str | None, message: str, command: tuple[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (tmp_path / "rules.yaml").write_text(text, encoding="utf-8")
    assert run("rules", *command, tmp_path / "rules.yaml", *([SAMPLE] if command == ("test",) else [])) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_recipes_are_listed_and_unknown_ones_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run") == 0
    out = capsys.readouterr().out
    names = {path.stem for path in (ROOT / "recipes").glob("*.py") if not path.stem.startswith("_")}
    assert names == {line.split()[0] for line in out.splitlines()[2:]}
    assert run("run", "dying-rely") == 2
    error = capsys.readouterr().err
    assert "there is no recipe 'dying-rely': did you mean dying_relu? there are " in error
    assert len(error.splitlines()) == 1


def test_a_recipe_gets_its_own_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("run", "dying-relu", "--help")
    assert ended.value.code == 0
    assert "convscope run dying_relu" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run("run", "digits", "--epoch", "x")
    assert "'x': give a whole number, at least 1" in capsys.readouterr().err


def test_reports_need_neither_torch_nor_lightning(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'lightning', 'pytorch_lightning', 'tensorflow'): sys.modules[name] = None\n"
        "from convscope.__main__ import main\n"
        f"print(main(['report', {str(SAMPLE)!r}, '-o', {str(tmp_path / 'r.html')!r}]))\n"
        f"print(main(['rules', 'test', 'default', {str(SAMPLE)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert [line for line in done.stdout.splitlines() if line == "0"] == ["0", "0"], done.stderr
