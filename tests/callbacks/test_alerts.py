"""DriftAlert through real fits: what it reads, what it does, what it survives, and what it remembers."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

import convscope
from convscope.alerts import judge_run, read_series
from convscope.alerts.judge import Judge
from convscope.callbacks.alerts import DriftAlert
from convscope.callbacks.parts.actions import AlertError
from convscope.callbacks.parts.fresh_values import FreshValues
from convscope.loggers import read_jsonl
from tests.callbacks.conftest import Classifier, loaders


class Scripted(Classifier):
    """Logs ``script`` from validation, one value an epoch (None: nothing), whatever it learns."""

    def __init__(self, script: list[float | None]) -> None:
        super().__init__()
        self.script = script

    def on_validation_epoch_end(self) -> None:
        value = self.script[self.current_epoch]
        if value is not None and not self.trainer.sanity_checking:
            self.log("scripted", value)


def alert_lines(path: Path) -> list[dict[str, Any]]:
    """Lines of alerts, without those of incidents."""
    return [line for line in read_jsonl(path) if "event" not in line]


class Epochs(L.Callback):
    """Which epochs were trained."""

    def __init__(self) -> None:
        self.trained: list[int] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.trained.append(trainer.current_epoch)


def rules(**changes: Any) -> list[dict[str, Any]]:
    when = [{"metric": "scripted", "detector": {"kind": "threshold", "limit": 0.5}}]
    return [{"name": "high", "message": "{metric} is {value:.1f}", "when": when, "cool_down": 0, **changes}]


def fit_script(fit: Any, script: list[float | None], alert: DriftAlert, *others: Any, **arguments: Any) -> Any:
    return fit([*others, alert], module=Scripted(script), max_epochs=len(script), **arguments)


# What it reads, and when.


def test_the_users_own_metric_is_watched(fit: Any) -> None:
    alert = DriftAlert(rules())
    fit_script(fit, [0.0, 0.0, 0.9, 0.9, 0.1, 0.8], alert)
    # 4 batches an epoch; steps are those of the user's own curves.
    assert [(a.rule, a.epoch, a.step, a.message) for a in alert.alerts] == [
        ("high", 2, 11, "scripted is 0.9"),
        ("high", 5, 23, "scripted is 0.8"),
    ]


def test_the_step_is_that_of_the_users_own_log(fit: Any) -> None:
    alert = DriftAlert(rules())
    run = fit_script(fit, [0.0, 0.9], alert)
    assert [step for step, _ in run.curve("scripted")][1] == alert.alerts[0].step
    assert run.curve("alert/severity")[1] == (alert.alerts[0].step, 2.0)


def test_layer_metrics_are_watched(fit: Any) -> None:
    when = [{"metric": "correlation/mean_abs/*", "detector": {"kind": "threshold", "limit": -1.0}}]
    alert = DriftAlert([{"name": "any", "when": when, "message": "{layers}"}])
    observer = convscope.FilterCorrelation(pictures=False)
    fit([observer, alert], max_epochs=1)
    assert len(alert.alerts[0].values) == 6
    # In the order of depth, so that a rule can name the deeper half.
    assert next(iter(alert._judge.watch._watches["any"]._conditions[0].series)).endswith("net.conv1")


def test_a_value_that_is_no_longer_logged_is_not_read_again(fit: Any) -> None:
    taken: list[dict[str, float]] = []

    class Reader(L.Callback):
        fresh = FreshValues()

        def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            if not trainer.sanity_checking:
                taken.append(self.fresh.take(trainer))

    script: list[float | None] = [0.25, None, 0.25, None]
    fit([Reader()], module=Scripted(script), max_epochs=4)
    assert [row.get("scripted") for row in taken] == script
    assert all("val_loss" in row for row in taken)


class Restarts(Classifier):
    """Two groups of different rates, ten times as large in epoch 2."""

    def configure_optimizers(self) -> Any:
        head, rest = list(self.net.parameters())[-2:], list(self.net.parameters())[:-2]
        optimizer = torch.optim.SGD([{"params": rest, "lr": 0.001}, {"params": head, "lr": 0.01}])
        factors = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 10.0 if epoch == 2 else 1.0)
        return {"optimizer": optimizer, "lr_scheduler": factors}


def test_rules_see_the_learning_rate_of_the_steps_that_were_made(fit: Any) -> None:
    when = [{"metric": "convscope/learning_rate", "detector": {"kind": "threshold", "limit": 0.05}}]
    alert = DriftAlert([{"name": "fast", "when": when, "message": "{value:.3f}"}])
    fit([alert], module=Restarts(), max_epochs=4)
    assert [(a.epoch, a.message) for a in alert.alerts] == [(2, "0.100")]


def test_the_epochs_own_training_mean_is_read_in_validation(fit: Any) -> None:
    taken: list[float] = []

    class Mean(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            self.log("mine", float(self.current_epoch), on_step=False, on_epoch=True)
            return super().training_step(batch, batch_idx)

    class Reader(L.Callback):
        fresh = FreshValues()

        def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            if not trainer.sanity_checking:
                taken.append(self.fresh.take(trainer)["mine"])

    fit([Reader()], module=Mean(), max_epochs=3)
    assert taken == [0.0, 1.0, 2.0]  # callback_metrics alone has nothing, 0 and 1


def test_without_a_validation_loop_it_reads_after_each_training_epoch(fit: Any) -> None:
    class Mean(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            self.log("scripted", float(self.current_epoch), on_step=False, on_epoch=True)
            return super().training_step(batch, batch_idx)

    alert = DriftAlert(rules())
    fit([alert], module=Mean(), max_epochs=3, limit_val_batches=0)
    assert [(a.epoch, a.step) for a in alert.alerts] == [(1, 7)]


def test_the_sanity_check_is_no_check(fit: Any) -> None:
    alert = DriftAlert(rules())
    fit_script(fit, [0.0], alert, num_sanity_val_steps=2)
    assert alert._judge.watch.checks == 1


def test_nan_in_a_watched_metric_is_an_alert(fit: Any) -> None:
    alert = DriftAlert(rules())
    fit_script(fit, [0.0, math.nan], alert)
    assert [(a.rule, a.severity, a.epoch) for a in alert.alerts] == [("not_finite", "critical", 1)]


def test_a_changed_heldout_set_is_an_alert_after_a_resume(fit: Any, tmp_path: Path) -> None:
    def callbacks(seed: int) -> list[Any]:
        observer = convscope.FilterCorrelation(pictures=False, heldout=convscope.HeldOut(size=20, seed=seed))
        checkpoint = ModelCheckpoint(tmp_path / "ckpt", save_last=True)
        return [observer, checkpoint, DriftAlert([r for r in convscope.rules.default() if r.name == "heldout_changed"])]

    fit(callbacks(0), max_epochs=1)
    same, other = callbacks(0), callbacks(1)
    fit(same, max_epochs=2, ckpt_path=tmp_path / "ckpt" / "last.ckpt")
    assert same[-1].alerts == []
    fit(other, max_epochs=3, ckpt_path=tmp_path / "ckpt" / "last.ckpt")
    assert [a.rule for a in other[-1].alerts] == ["heldout_changed"]


# Actions.


def test_log_speaks_at_the_level_of_the_severity(fit: Any, caplog: pytest.LogCaptureFixture) -> None:
    for severity, level in (("info", logging.INFO), ("warning", logging.WARNING), ("critical", logging.ERROR)):
        caplog.clear()
        with caplog.at_level(logging.INFO, "convscope"):
            fit_script(fit, [0.9], DriftAlert(rules(severity=severity, likely="a cause"), {severity: ["log"]}))
        (record,) = [r for r in caplog.records if r.name == "convscope"]
        assert record.levelno == level
        assert record.getMessage() == f"convscope: [{severity}] high, epoch 0: scripted is 0.9. Likely: a cause."


def test_a_note_is_in_the_log_and_in_the_list_by_default(fit: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "convscope"):
        run = fit_script(fit, [0.0, 0.9], DriftAlert(rules(severity="info")))
    assert "convscope: [info] high, epoch 1: scripted is 0.9." in caplog.messages
    (event,) = run.events.Tensors("alerts/text_summary")
    assert "- **info**" in event.tensor_proto.string_val[0].decode()


def test_actions_are_those_of_the_severity(fit: Any) -> None:
    noted: list[Any] = []
    warned: list[Any] = []
    actions = {"info": [noted.append], "warning": [warned.append]}
    fit_script(fit, [0.9], DriftAlert(rules(severity="info"), actions))
    fit_script(fit, [0.9], DriftAlert([*rules(severity="info"), *rules(name="other")], actions))
    assert [incident.rule for incident in noted] == ["high"]
    assert [(incident.rule, incident.rules) for incident in warned] == [("other", ["other", "high"])]


@pytest.mark.parametrize(("severity", "told"), [("info", 0), ("warning", 1), ("critical", 1)])
def test_a_list_of_actions_is_for_warning_and_critical(fit: Any, severity: str, told: int) -> None:
    seen: list[Any] = []
    fit_script(fit, [0.9], DriftAlert(rules(severity=severity), [seen.append]))
    assert len(seen) == told


def test_tensorboard_gets_one_curve_and_a_list_of_all_so_far(fit: Any) -> None:
    run = fit_script(fit, [0.0, 0.9, 0.0, 0.0, 0.8, 0.9], DriftAlert(rules()))
    assert run.curve("alert/severity") == [(3, 0.0), (7, 2.0), (11, 2.0), (15, 0.0), (19, 2.0), (23, 2.0)]
    assert [tag for tag in run.events.Tags()["scalars"] if tag.startswith("alert")] == ["alert/severity"]
    events = run.events.Tensors("alerts/text_summary")
    lists = [event.tensor_proto.string_val[0].decode() for event in events]
    assert [event.step for event in events] == [7, 15, 19]
    assert [listed.count("- **warning**") for listed in lists] == [1, 1, 2]
    assert "open since epoch 1: scripted is 0\\.9" in lists[0]
    assert "epoch 1 to epoch 3, the values are back: scripted is 0\\.9" in lists[1]
    assert lists[2].startswith("- **warning**, open since epoch 4")  # what is open comes first
    assert "|" not in lists[2]


def test_jsonl_is_beside_the_run_and_needs_no_logger(fit: Any, tmp_path: Path) -> None:
    run = fit_script(fit, [0.9], DriftAlert(rules()))
    lines = read_jsonl(Path(run.trainer.logger.log_dir) / "alerts.jsonl")
    assert [(line["incident"], line.get("event")) for line in lines] == [(1, None), (1, "opened")]
    for line in lines:  # both have what a line has always had
        assert (line["rule"], line["epoch"], line["values"]) == ("high", 0, {"scripted": pytest.approx(0.9)})
    fit_script(fit, [0.9], DriftAlert(rules()), logger=False)
    assert len(alert_lines(tmp_path / "alerts.jsonl")) == 1


def test_jsonl_has_the_end_of_an_incident_too(fit: Any, tmp_path: Path) -> None:
    fit_script(fit, [0.0, 0.9, 0.0, 0.0, 0.0], DriftAlert(rules()), logger=False)
    events = [line for line in read_jsonl(tmp_path / "alerts.jsonl") if "event" in line]
    assert [(line["event"], line["epoch"], line["check"], line["ending"]) for line in events] == [
        ("opened", 1, 2, ""),
        ("closed", 3, 4, "the values are back"),
    ]


def test_a_new_run_in_the_same_folder_is_another_run(fit: Any, tmp_path: Path) -> None:
    for _ in range(2):
        fit_script(fit, [0.9], DriftAlert(rules()), logger=False)
    records = read_jsonl(tmp_path / "alerts.jsonl")
    assert len({record["run"] for record in records}) == 2


def test_checkpoint_holds_the_model_and_the_alert(fit: Any, tmp_path: Path) -> None:
    alert = DriftAlert(rules(), {"warning": ["checkpoint"]})
    fit_script(fit, [0.0, 0.9], alert, logger=False)
    saved = torch.load(tmp_path / "alerts" / "high-epoch=1-step=7.ckpt", weights_only=True)
    assert "net.conv1.weight" in saved["state_dict"]
    assert [a["rule"] for a in saved["callbacks"]["DriftAlert"]["alerts"]] == ["high"]


@pytest.mark.parametrize(("min_epochs", "expected"), [(None, 2), (4, 4)])
def test_stop_is_that_of_early_stopping(fit: Any, min_epochs: int | None, expected: int) -> None:
    script: list[float | None] = [0.0, 0.9, 0.9, 0.9, 0.9, 0.9]
    ours, theirs = Epochs(), Epochs()
    fit_script(fit, script, DriftAlert(rules(), {"warning": ["stop"]}), ours, min_epochs=min_epochs)
    stopper = EarlyStopping("scripted", stopping_threshold=0.5, mode="max")
    fit([theirs, stopper], module=Scripted(script), max_epochs=6, min_epochs=min_epochs)
    assert ours.trained == theirs.trained == list(range(expected))


def test_raise_comes_after_everything_else(fit: Any, tmp_path: Path) -> None:
    seen: list[Any] = []
    alert = DriftAlert(rules(), {"warning": ["raise", seen.append, "jsonl"]})
    with pytest.raises(AlertError, match=r"\[warning\] high: scripted is 0\.9\."):
        fit_script(fit, [0.9, 0.9], alert, logger=False)
    assert (len(seen), len(alert_lines(tmp_path / "alerts.jsonl"))) == (1, 1)


# What goes wrong in an action stays there.


def test_a_callable_that_raises_is_reported_once_and_training_goes_on(
    fit: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(alert: Any) -> None:
        raise RuntimeError("no such desk")

    epochs = Epochs()
    alert = DriftAlert(rules(), [fails, "stop"])
    fit_script(fit, [0.9, 0.0, 0.9, 0.0], alert, epochs, min_epochs=4)
    reports = [r.getMessage() for r in caplog.records if "no such desk" in r.getMessage()]
    assert len(reports) == 1
    assert epochs.trained == [0, 1, 2, 3]
    assert len(alert.alerts) == 2


def test_a_file_that_cannot_be_written_is_reported_once(
    fit: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    alert = DriftAlert(rules(), [{"jsonl": {"path": str(tmp_path / "file" / "alerts.jsonl")}}])
    fit_script(fit, [0.9, 0.0, 0.9], alert)
    assert len([r for r in caplog.records if "Jsonl failed" in r.getMessage()]) == 1


def test_a_webhook_that_refuses_is_reported_without_its_address(
    fit: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HOOK_FOR_TEST", "http://127.0.0.1:9/secret-token")
    hook = {"webhook": {"url": "env:HOOK_FOR_TEST", "pause": 0.01}}
    alert = DriftAlert(rules(), [hook])
    fit_script(fit, [0.9, 0.0, 0.9], alert)
    assert len([r for r in caplog.records if "webhook at 127.0.0.1 failed" in r.getMessage()]) == 1
    assert "secret-token" not in caplog.text
    assert "secret-token" not in json.dumps(alert.state_dict())


# Globs that match nothing.


def test_a_glob_that_matches_nothing_is_warned_of_once_with_the_nearest_keys(fit: Any) -> None:
    mistyped = [{"name": "a", "when": [{"metric": "val_los", "detector": {"kind": "finite"}}]}]
    with pytest.warns(UserWarning, match=r"'val_los' \(nearest: val_loss") as caught:
        fit([DriftAlert(mistyped)], max_epochs=3)
    assert len([w for w in caught if "DriftAlert" in str(w.message)]) == 1


def test_default_rules_do_not_warn_of_callbacks_that_are_not_there(fit: Any, recwarn: pytest.WarningsRecorder) -> None:
    fit([DriftAlert()], max_epochs=1)
    assert not [w for w in recwarn if "DriftAlert" in str(w.message)]


# Resume.


@pytest.mark.parametrize("cut", [2, 4])
def test_a_resumed_run_neither_repeats_alerts_nor_forgets_the_warm_up(fit: Any, tmp_path: Path, cut: int) -> None:
    when = [{"metric": "scripted", "detector": {"kind": "robust_z", "warm_up": 3, "least_scale": 0.05}}]
    source = [*rules(), {"name": "jump", "when": when}]
    script: list[float | None] = [0.0, 0.9, 0.9, 0.9, 3.0, 0.9]

    def checkpoint(name: str) -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path / name, save_last=True)

    whole = DriftAlert(source)
    fit([whole, checkpoint("whole")], module=Scripted(script), max_epochs=6)
    first, second = DriftAlert(source), DriftAlert(source)
    fit([first, checkpoint("cut")], module=Scripted(script), max_epochs=cut, logger=False)
    fit(
        [second, checkpoint("cut")], module=Scripted(script), max_epochs=6, logger=False,
        ckpt_path=tmp_path / "cut" / "last.ckpt",
    )  # fmt: skip
    assert [(a.rule, a.epoch) for a in whole.alerts] == [("high", 1), ("jump", 4)]
    assert [a.as_dict() for a in second.alerts] == [a.as_dict() for a in whole.alerts]
    assert [r["rule"] for r in alert_lines(tmp_path / "alerts.jsonl")] == ["high", "jump"]
    spans = [(one.rule, one.opened, one.closed, one.ending) for one in whole.incidents]
    assert [(one.rule, one.opened, one.closed, one.ending) for one in second.incidents] == spans


def test_alerts_after_the_last_checkpoint_are_not_written_twice(fit: Any, tmp_path: Path) -> None:
    """Killed after the alert, resumed from before it: the file holds it once."""
    script: list[float | None] = [0.0, 0.9]
    first = DriftAlert(rules())
    fit(
        [first, ModelCheckpoint(tmp_path / "c", save_top_k=-1, filename="{epoch}")],
        module=Scripted(script),
        logger=False,
    )
    second = DriftAlert(rules())
    fit([second], module=Scripted(script), logger=False, ckpt_path=tmp_path / "c" / "epoch=0.ckpt")
    assert len(second.alerts) == 1
    assert len(alert_lines(tmp_path / "alerts.jsonl")) == 1
    assert len(read_jsonl(tmp_path / "alerts.jsonl")) == 2  # and its incident


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"actions": ["shout"]}, "actions=['shout']: give one of 'log', 'tensorboard', 'jsonl', 'webhook',"),
        ({"actions": {"bad": ["log"]}}, "actions=['bad']: give lists for some of the severities 'info', 'warning'"),
        ({"actions": "log"}, "actions='log': give a list such as ['log', 'jsonl']"),
        ({"actions": {"warning": {"webhook": {"url": "secret"}}}}, "actions=<dict>: give a list"),
        ({"actions": [{"jsonl": "a.jsonl"}]}, "'jsonl': 'a.jsonl' are not arguments; give a mapping"),
        ({"actions": [{"jsonl": {"path": ""}}]}, "path='': give the path of a file"),
        ({"actions": [{"webhook": {}}]}, "url"),
        ({"actions": [{"jsonl": {"folder": "x"}}]}, "folder"),
        ({"actions": [3]}, "actions=[3]: give names, mappings of one name to its arguments, or callables"),
        ({"actions": [object()]}, "actions=[<object>]: give names"),
        ({"rules": [{"name": "a"}]}, "field when: is missing"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], names: str) -> None:
    with pytest.raises(ValueError) as error:
        DriftAlert(**arguments)
    assert names in str(error.value)


def test_a_yaml_file_of_rules(fit: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("- {name: a, when: [{metric: val_loss, detector: {kind: threshold, limit: -1.0}}]}")
    alert = DriftAlert(str(path))
    fit([alert], max_epochs=1)
    assert [a.rule for a in alert.alerts] == ["a"]


def test_training_is_the_same_with_and_without(fit: Any) -> None:
    def weights(callbacks: list[Any]) -> dict[str, torch.Tensor]:
        L.seed_everything(0)
        return fit(callbacks, data=loaders()).module.state_dict()

    without, with_it = weights([]), weights([DriftAlert(actions=["log"])])
    assert all(torch.equal(without[name], with_it[name]) for name in without)


def test_a_recorded_run_replays_to_the_same_alerts(fit: Any) -> None:
    recorded: list[dict[str, float]] = []

    class Recorder(L.Callback):
        fresh = FreshValues()

        def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            if not trainer.sanity_checking:
                recorded.append(self.fresh.take(trainer))

    when = [{"metric": "*/*/*", "detector": {"kind": "relative_drop", "limit": 0.02, "warm_up": 1}}]
    source = [*rules(), {"name": "any", "when": when, "cool_down": 0}]
    alert = DriftAlert(source)
    observer = convscope.FilterCorrelation(pictures=False)
    fit([observer, Recorder(), alert], module=Scripted([0.0, 0.9, 0.0, 0.9]), max_epochs=4)
    judge = Judge(convscope.rules.load(source))
    replayed = [found for values in recorded for found in judge.update(values).alerts]
    assert [one.rules for one in judge.incidents] == [one.rules for one in alert.incidents]
    assert [(a.rule, a.check, a.values) for a in replayed] == [(a.rule, a.check, a.values) for a in alert.alerts]
    assert {a.rule for a in replayed} == {"high", "any"}


def test_lightning_cli_builds_it_from_plain_values(tmp_path: Path) -> None:
    jsonargparse = pytest.importorskip("jsonargparse")
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_subclass_arguments(L.Callback, "alert")
    path = tmp_path / "config.yaml"
    path.write_text(
        "alert:\n  class_path: convscope.DriftAlert\n  init_args:\n"
        "    rules: [{name: a, when: [{metric: x, detector: {kind: threshold, limit: 1.5}}]}]\n"
        f"    actions: {{warning: [log, {{jsonl: {{path: {tmp_path / 'a.jsonl'}}}}}]}}\n"
    )
    alert = parser.instantiate_classes(parser.parse_args(["--config", str(path)])).alert
    assert isinstance(alert, DriftAlert)
    assert [rule.name for rule in alert.rules] == ["a"]
    assert [type(action).__name__ for action in alert._actions["warning"]] == ["Log", "Jsonl"]


def test_series_are_written_and_judged_again_as_they_were(fit: Any, tmp_path: Path) -> None:
    watched = [{"name": "high", "when": [{"metric": "scripted", "detector": {"kind": "threshold", "limit": 0.5}}]}]
    script = [0.1, 0.9, 0.1, math.nan, 0.2]
    alert = DriftAlert(rules=watched, actions=[], series=True)
    fit_script(fit, script, alert, default_root_dir=tmp_path, logger=False)
    (run,) = read_series(tmp_path)
    assert [row["scripted"] for row in run] == pytest.approx(script, nan_ok=True)
    assert all(set(row) == {"scripted"} for row in run)  # the losses are watched by no rule
    again = judge_run(run, alert.rules)
    assert [one.rule for one in again] == [one.rule for one in alert.incidents] == ["high", "not_finite"]


def test_series_are_not_written_unasked_and_a_resumed_run_repeats_no_check(fit: Any, tmp_path: Path) -> None:
    fit_script(fit, [0.1, 0.2], DriftAlert(rules=rules(), actions=[]), default_root_dir=tmp_path, logger=False)
    assert not list(tmp_path.rglob("alert_series.jsonl"))
    saver = ModelCheckpoint(tmp_path, filename="first", every_n_epochs=1, save_top_k=-1)
    script: list[float | None] = [0.1, 0.2, 0.3]
    alert = DriftAlert(rules=rules(), actions=[], series=True)
    fit_script(fit, script[:2], alert, saver, default_root_dir=tmp_path, logger=False)
    later = DriftAlert(rules=rules(), actions=[], series=True)
    fit_script(fit, script, later, default_root_dir=tmp_path, logger=False, ckpt_path=str(tmp_path / "first.ckpt"))
    (run,) = read_series(tmp_path)
    assert [row["scripted"] for row in run] == pytest.approx(script)
