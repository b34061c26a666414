"""What ``callbacks=convscope.suite(...)`` brings, alone and beside callbacks of the user's own, and what is said."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import convscope
from convscope import AblationOracle, DriftAlert, ForwardFromLayer, HeldOut, LayerTable
from convscope.callbacks.parts.layer_observer import LayerObserver
from tests.callbacks.conftest import Classifier, loaders
from tests.networks import TinyResNet, images
from tests.support.trainers import quiet_trainer

FIVE = ["LayerProbe", "FilterImportance", "FilterCorrelation", "RepresentationDrift", "FilterHealth"]
RULE = {
    "name": "mine", "message": "{metric}",
    "when": [{"metric": "train_loss", "detector": {"kind": "threshold", "limit": -1.0}}],
}  # fmt: skip


def kinds(callbacks: list[Any]) -> list[str]:
    return [type(callback).__name__ for callback in callbacks]


def said(caplog: Any, part: str) -> list[str]:
    return [message for message in caplog.messages if part in message]


# What is in it.


def test_each_suite_and_what_is_in_the_larger_one_besides() -> None:
    assert kinds(convscope.suite("light")) == ["LayerProbe", "FilterCorrelation", "DriftAlert"]
    assert not any(c.needs_gradient for c in convscope.suite("light") if isinstance(c, LayerObserver))
    assert kinds(convscope.suite()) == [*FIVE, "LayerTable", "DriftAlert"]
    full = convscope.suite("full", every_n_epochs=3, max_layers=None)
    observers = [callback for callback in full if isinstance(callback, LayerObserver)]
    assert kinds(full)[:5] + kinds(full)[-2:] == [*FIVE, "LayerTable", "DriftAlert"]
    assert len({observer.name for observer in observers}) == len(observers) == len(full) - 2
    assert all(o.max_layers is None and o.schedule.every_n_epochs == 3 for o in observers)
    assert len({id(observer.heldout) for observer in observers}) == 1
    with pytest.raises(ValueError, match=r"^name='big': give one of 'light', 'standard', 'full'$"):
        convscope.suite("big")


@pytest.mark.parametrize("name", ["light", "standard", "full"])
def test_alerts_are_set_or_left_out_by_one_argument(name: Any, tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("- {name: mine, message: m, when: [{metric: loss, detector: {kind: threshold, limit: 1}}]}\n")
    assert "DriftAlert" not in kinds(convscope.suite(name, alerts=False))
    for own in (str(path), path, [RULE], DriftAlert(rules=[RULE]).rules):
        assert [rule.name for rule in convscope.suite(name, alerts=own)[-1].rules] == ["mine"]
    acting = convscope.suite(name, alerts={"critical": ["stop"]})[-1]
    assert len(acting.rules) == len(DriftAlert().rules)
    assert {severity: kinds(actions) for severity, actions in acting._actions.items()} == {"critical": ["Stop"]}


@pytest.mark.parametrize("value", [None, 1, 0.5, ["log", "stop"], DriftAlert(), DriftAlert, {"loud": ["log"]}])
def test_other_alerts_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^(alerts=.*: give True, False, the path|actions=\['loud'\])"):
        convscope.suite(alerts=value)
    with pytest.raises(FileNotFoundError, match=r"alerts='no/such/rules.yaml': there is no such file; give the path"):
        convscope.suite(alerts="no/such/rules.yaml")


@pytest.mark.parametrize("value", [3, RULE, 0.5])
def test_other_rules_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^rules=.*: give the path of a YAML file, a list of rules, or None"):
        DriftAlert(rules=value)
    with pytest.raises(FileNotFoundError, match=r"rules='\.': there is no such file; give the path"):
        DriftAlert(rules=".")  # a folder


def test_a_suite_inside_a_list_says_how_it_is_meant(tmp_path: Path) -> None:
    copied = copy.deepcopy(pickle.loads(pickle.dumps(convscope.suite("light"))))
    assert kinds(copied) == kinds(convscope.suite("light"))
    meant = r"instead of \[suite\(\.\.\.\), another\] write \[\*suite\(\.\.\.\), another\]"
    with pytest.raises(AttributeError, match=meant):
        _ = copied.setup  # type: ignore[attr-defined]
    # Lightning 2.4 looks at the class first, and refuses it in words of its own.
    with pytest.raises((AttributeError, ValueError), match=rf"{meant}|Expected a parent"):
        quiet_trainer(tmp_path, max_epochs=1, callbacks=[convscope.suite("light")]).fit(Classifier(), *loaders())


def test_the_suite_is_whole_with_and_without_a_validation_loop(fit: Any, capsys: Any) -> None:
    for arguments in ({}, {"limit_val_batches": 0}):
        run = fit(convscope.suite(alerts=[{**RULE, "cool_down": 0}], on_error="raise"), **arguments)
        tags = {tag.split("/")[0] for tag in run.trainer.callback_metrics}
        assert {"probe", "importance", "correlation", "drift", "health"} <= tags
        assert [alert.rule for alert in run.trainer.callbacks[6].alerts][:1] == ["mine"]
        printed = capsys.readouterr().out
        assert [printed.count(f"{title}\n") for title in ("before training", "epoch 0", "epoch 1")] == [1, 1, 1]


# Beside the user's own.


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("arguments", [{}, {"limit_val_batches": 0}], ids=["validation", "none"])
def test_a_drift_alert_of_ones_own_takes_the_place_of_the_suites(
    fit: Any, caplog: Any, first: bool, arguments: dict[str, Any]
) -> None:
    class Mine(DriftAlert):
        """A subclass is one too."""

    own, suite = Mine(rules=[RULE]), convscope.suite("light")
    with caplog.at_level("INFO"):
        run = fit([own, *suite] if first else [*suite, own], **arguments)
    assert suite[-1] not in run.trainer.callbacks
    assert suite[-1].alerts == []
    assert [alert.rule for alert in own.alerts] == ["mine"]
    assert len(said(caplog, "your own Mine replaces the suite's")) == 1


def test_a_table_of_ones_own_is_the_only_one(fit: Any, capsys: Any) -> None:
    own = LayerTable()
    run = fit([own, *convscope.suite(alerts=False)], max_epochs=1)
    assert [callback for callback in run.trainer.callbacks if isinstance(callback, LayerTable)] == [own]
    assert capsys.readouterr().out.count("before training\n") == 1


def test_an_observer_of_ones_own_takes_the_place_of_the_suites_of_its_name(fit: Any, caplog: Any) -> None:
    class Mine(convscope.LayerProbe):
        """A subclass is one too."""

    drift = convscope.RepresentationDrift(reference=TinyResNet(4, classes=3))
    with caplog.at_level("INFO"):
        run = fit([Mine(layers="net.conv1"), *convscope.suite(pictures=False), drift], max_epochs=1)
    assert [c for c in run.trainer.callbacks if isinstance(c, convscope.RepresentationDrift)] == [drift]
    assert len([c for c in run.trainer.callbacks if isinstance(c, convscope.LayerProbe)]) == 1
    tags = run.trainer.callback_metrics
    assert [tag for tag in tags if tag.startswith("probe/accuracy/")] == [
        "probe/accuracy/net.conv1",
        "probe/accuracy/output",
    ]
    assert "drift/cka_reference/net.conv1" in tags
    assert "gini" in " ".join(tags)  # the others of the suite are there
    assert len(said(caplog, "replaces the suite's")) == 2


def test_two_alerts_of_ones_own_are_refused(fit: Any) -> None:
    with pytest.raises(MisconfigurationException, match="has 2 callbacks DriftAlert; give one"):
        fit([*convscope.suite("light"), DriftAlert(), DriftAlert()])


@pytest.mark.parametrize("make", ["two suites", "one list twice", "two sizes"])
def test_a_suite_given_twice_gets_our_message(fit: Any, make: str) -> None:
    suite = convscope.suite()
    callbacks = {
        "two suites": [*suite, *convscope.suite()],
        "one list twice": [*suite, *suite],
        "two sizes": [*convscope.suite("light"), *suite],
    }[make]
    with pytest.raises(
        MisconfigurationException, match=r"has more than one of LayerProbe 'probe'.*: give a suite once"
    ):
        fit(callbacks)


def test_an_alerts_memory_goes_from_the_suites_to_ones_own(fit: Any, tmp_path: Path) -> None:
    """The suite's alert and the user's keep their state in one place, so that a resumed run may change over."""
    saving = ModelCheckpoint(tmp_path, save_last=True)
    fit([*convscope.suite("light", alerts=[RULE]), saving], max_epochs=1)
    own = DriftAlert(rules=[RULE])
    fit([*convscope.suite("light"), own], max_epochs=2, ckpt_path=tmp_path / "last.ckpt")
    assert own.alerts[0].epoch == 0  # from the run before


# The line at the start.


def watching(caplog: Any) -> str:
    (line,) = said(caplog, "convscope: watching")
    return line


def test_one_line_says_what_is_watched(fit: Any, caplog: Any) -> None:
    with caplog.at_level("INFO"):
        fit(convscope.suite())
    start, seconds = watching(caplog).split("; a check takes ")
    assert start == "convscope: watching 6 conv layers of TinyResNet with 30 held-out samples"
    assert seconds.endswith(" s; alerts on")
    assert float(seconds.split()[0]) > 0


def test_the_line_counts_layers_and_samples_of_all_held_out_sets(fit: Any, caplog: Any) -> None:
    other = HeldOut(images(12, seed=3), size=12)
    with caplog.at_level("INFO"):
        fit([
            convscope.LayerProbe(max_layers=2),
            convscope.FilterCorrelation(layers="*.layer2.*", heldout=other, max_layers=None),
        ])  # fmt: skip
    line = watching(caplog)
    assert "4 of 6 conv layers of TinyResNet with 30 and 12 held-out samples" in line
    assert line.endswith("alerts off")


class Flowing:
    """Batches that can only be had one after another."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __iter__(self) -> Any:
        return iter(self.loader)


def test_the_line_comes_once_a_fit_also_after_a_resume_and_where_samples_flow_by(
    fit: Any, caplog: Any, tmp_path: Path
) -> None:
    with caplog.at_level("INFO"):
        fit([*convscope.suite("light"), ModelCheckpoint(tmp_path, save_last=True)], max_epochs=1)
        watching(caplog)
        caplog.clear()
        fit(convscope.suite("light"), max_epochs=3, ckpt_path=tmp_path / "last.ckpt")
        watching(caplog)
        caplog.clear()
        train, val = loaders()
        fit(convscope.suite("light"), data=(train, Flowing(val)), num_sanity_val_steps=0, max_epochs=1)
        assert "30 held-out samples" in watching(caplog)


@pytest.mark.parametrize("name", ["light", "standard", "full"])
def test_nothing_is_said_twice(fit: Any, caplog: Any, name: Any) -> None:
    with caplog.at_level("INFO"):
        fit(convscope.suite(name, max_layers=3, max_overhead=1e-5), max_epochs=3)
    lines = said(caplog, "convscope:")
    assert len(lines) == len(set(lines))
    assert len(said(caplog, "observes 3 of 6 layers, evenly over depth")) == 1
    assert len(said(caplog, "to keep checks under max_overhead")) == 1


# Interventions.


def test_interventions_leave_the_untrained_network_alone(fit: Any, caplog: Any) -> None:
    own = {"layers": "*.layer2.0.conv1", "max_forwards": 30}
    callbacks = [AblationOracle(every_n_epochs=2, ends=1, random=3, **own), ForwardFromLayer(every_n_epochs=4, **own)]
    with caplog.at_level("INFO"):
        run = fit(callbacks, max_epochs=3)
    assert [step for step, _ in run.curve("ablation/top/net.layer2.0.conv1")] == [7]
    assert not [tag for tag in run.events.Tags()["scalars"] if tag.startswith("forward/")]
    (line,) = said(caplog, "makes no check in this run")
    assert line.startswith("convscope: forward makes no check in this run, which ends after 3 epochs: its first would")


def test_a_monitored_value_of_an_intervention_is_there_from_the_start(fit: Any) -> None:
    own = {"layers": "*.layer2.0.conv1", "max_forwards": 30, "ends": 1, "random": 3}
    stopping = EarlyStopping("ablation/top/net.layer2.0.conv1", patience=9)
    run = fit([AblationOracle(**own), stopping], max_epochs=3)
    assert run.trainer.current_epoch == 3
    assert [step for step, _ in run.curve("ablation/top/net.layer2.0.conv1")] == [0]


def test_on_start_brings_them_before_training_all_the_same(fit: Any) -> None:
    run = fit([AblationOracle(on_start=True, layers="*.layer2.0.conv1", ends=1, random=3)], max_epochs=1)
    assert [step for step, _ in run.curve("ablation/top/net.layer2.0.conv1")] == [0]


def test_the_networks_name_is_the_users_word_for_it(fit: Any, caplog: Any) -> None:
    class Whole(Classifier):
        """Two parts: what it is called is the module itself."""

        def __init__(self) -> None:
            super().__init__(TinyResNet(4, classes=3))
            self.scale = torch.nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.scale(self.net(x))

    with caplog.at_level("INFO"):
        fit([convscope.LayerProbe()], module=Whole(), max_epochs=1)
    assert "of Whole with" in watching(caplog)
