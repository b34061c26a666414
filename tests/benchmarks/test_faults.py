"""The fault benchmark's own arithmetic: who fired when, how sure the shares are, what every fault does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from scipy import stats

pytest.importorskip("sklearn")

from benchmarks.fault_incidents import faulty_layers, incident_rows, is_named, messages, named_first
from benchmarks.fault_injection import LEVELS, STRENGTHS, Fault
from benchmarks.fault_models import TEST_NETS, TUNING_NETS, Classifier, Config, load_images
from benchmarks.fault_report import _share, report
from benchmarks.fault_rivals import delay, early_stopping, z_score
from benchmarks.fault_runs import Job, _loaders, _trainer, jobs, run
from benchmarks.faults import load
from tests.callbacks.conftest import Classifier as Scripted


def record(losses: list[float], begins: int | None = None, **changes: Any) -> dict[str, Any]:
    checks = [{"val_loss": loss} for loss in losses]
    return {
        "key": "k",
        "fault": None,
        "strength": "medium",
        "begins": begins,
        "checks": checks,
        "spike": None,
        **changes,
    }


def test_delay_counts_from_the_first_check_after_the_fault() -> None:
    found = record([1.0] * 10, begins=5)
    assert [delay(found, alarms) for alarms in ([2, 7], [5], [4], [])] == [2, 0, None, None]


@pytest.mark.parametrize(("hits", "count"), [(0, 40), (3, 40), (40, 40), (1, 2)])
def test_intervals_are_wilsons(hits: int, count: int) -> None:
    expected = stats.binomtest(hits, count).proportion_ci(method="wilson")
    _, low, high = _share([True] * hits + [False] * (count - hits))
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_z_score_speaks_at_a_spike_and_at_nan() -> None:
    assert z_score(record([1.0, 0.9, 1.0, 0.9, 1.0, 0.95, 3.0])) == [6]
    assert z_score(record([1.0] * 5 + [float("nan")])) == [5]


@pytest.mark.parametrize("losses", [[1.0, 0.9, 0.95, 0.92, 0.91, 0.5], [1.0, 0.9, 0.8, 0.7], [1.0, float("nan"), 0.5]])
def test_early_stopping_is_replayed_as_it_runs(losses: list[float], fit: Any) -> None:
    class Losses(Scripted):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", losses[self.current_epoch])

    stopper = EarlyStopping("val_loss", patience=3)
    fit([stopper], module=Losses(), max_epochs=len(losses), num_sanity_val_steps=0)
    assert early_stopping(record(losses)) == ([stopper.stopped_epoch] if stopper.stopped_epoch else [])


def test_halves_share_neither_seeds_nor_networks() -> None:
    plan = (5, dict.fromkeys(STRENGTHS, 3))
    tune, test = ({job.seed for job in jobs(half, *plan)} for half in ("tune", "test"))
    assert len(tune) == len(test) == 5 + 9 * len(LEVELS)
    assert not tune & test
    assert not set(TUNING_NETS) & set(TEST_NETS)


def test_a_line_that_was_cut_off_is_trained_again(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text(json.dumps({"key": "a"}) + '\n{"key": "b", "che')
    assert load(tmp_path, "test") == [{"key": "a"}]
    assert load(tmp_path, "tune") == []


def config(net: str) -> Config:
    return Config(0, net, "digits", "sgd", 64, "constant", False, 0.0, 12)


def trained(fault: Fault, net: str = "vgg_bn", kind: str | None = None) -> Classifier:
    L.seed_everything(0, verbose=False)
    module = Classifier(config(net), fault)
    trainer = _trainer([])
    trainer.fit_loop.max_epochs = 1
    trainer.fit(module, *_loaders(load_images("digits"), 64, kind))
    return module


@pytest.mark.parametrize("kind", list(LEVELS))
def test_every_fault_changes_training_from_its_epoch_on_and_not_before(kind: str) -> None:
    healthy = trained(Fault(), kind=kind).state_dict()
    later = trained(Fault(kind, "strong", begins=1), kind=kind).state_dict()
    now = trained(Fault(kind, "strong", begins=0), kind=kind).state_dict()
    if kind != "task_switch":  # its first task is not everything
        assert all(torch.equal(healthy[name], later[name]) for name in healthy)
    assert any(not torch.equal(later[name], now[name]) for name in healthy)


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("net", ["vgg_bn", "plain", "dense_bn"])
def test_faulty_layers_are_those_that_the_fault_is_put_into(net: str, strength: str) -> None:
    faulty = record([], key="k", fault="frozen", strength=strength, config=config(net).as_dict())
    module = Classifier(config(net), Fault("frozen", strength, begins=0))
    module.fault.at_epoch(module)
    frozen = {name.rsplit(".", 1)[0] for name, weight in module.named_parameters() if not weight.requires_grad}
    assert set(faulty_layers(faulty)) == frozen
    dying = faulty_layers({**faulty, "fault": "dying"})
    assert dying == faulty_layers({**faulty, "fault": "duplicated"})
    assert len(dying) == 1


def test_messages_are_counted_and_the_first_layer_is_compared() -> None:
    healthy = {f"health/not_learning/{layer}": 0.0 for layer in ("net.0.0", "net.1.0", "net.2.0")}
    checks = [healthy] * 8 + [{**healthy, "health/not_learning/net.1.0": 1.0}] * 8
    found = record([], 8, key="k", fault="frozen", config=config("vgg_bn").as_dict()) | {"checks": checks}
    assert messages(found) == [8]
    assert named_first(found) == "net.1.0"
    assert is_named(found)
    assert not is_named({**found, "fault": "lost_group", "strength": "weak"})
    assert incident_rows([found], "medium")[-1] == ["all", "1, 1", "1, 1", "1 of 1"]


def test_the_report_holds_every_fault_and_rival() -> None:
    healthy = [record([1.0] * 16, key=f"h{i}") for i in range(3)]
    faulty = [record([1.0] * 8 + [9.0] * 8, 8, key=f"{f}", fault=f, config=config("vgg_bn").as_dict()) for f in LEVELS]
    text = report(healthy + faulty)
    assert all(f"| {fault} |" in text for fault in LEVELS)
    # The loss alone tells of a fault, in one message, and of no layer.
    assert "| frozen | 1, 1 | 1, 1 | 0 of 1 |" in text
    assert "| labels | 1, 1 | 1, 1 |  |" in text
    assert "| the faulty layer named first in ≥ 80 % of the faults of medium strength that are of a layer | 0 %" in text
    assert "| z-score of val_loss | 0 % (0 to 56) | 0.00 |" in text


@pytest.mark.slow
def test_a_run_records_what_the_rules_see() -> None:
    found = run(Job("tune", "lost_group", "medium", 0))  # strong: all layers stand still, none beside others
    assert len(found["checks"]) == 16
    begins = found["begins"]
    not_learning = [sum(v for t, v in c.items() if t.startswith("health/not_learning/")) for c in found["checks"]]
    assert not any(not_learning[:begins])
    assert not_learning[begins] > 0
