"""The fault benchmark's programs and faults: what is drawn, what every fault does and when, and what is recorded."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

pytest.importorskip("sklearn")

from benchmarks.fault_injection import LEVELS, NEVER, NOTHING, STRENGTHS, Fault, applies, struck_layers
from benchmarks.fault_programs import Learner, Program, draw_program, families
from benchmarks.fault_runs import Job, _loaders, _trainer, jobs, run
from benchmarks.faults import HALVES, load

# Kinds of program that between them can have every fault; digits need no file.
PROGRAM = Program(0, "a", "digits", "plain", "batch", "relu", "sgd", "constant", 1, 64, 8, 0.0, ema=0.95)


def trained(fault: Fault, program: Program = PROGRAM) -> Learner:
    L.seed_everything(0, verbose=False)
    module = Learner(program, fault)
    _trainer(program, []).fit(module, *_loaders(program, fault.kind))
    return module


@pytest.fixture(scope="module")
def healthy() -> dict[str, torch.Tensor]:
    return trained(Fault()).state_dict()


@pytest.mark.parametrize("kind", [*LEVELS, *NOTHING])
def test_every_fault_changes_training_from_its_check_on_and_not_before(
    kind: str, healthy: dict[str, torch.Tensor]
) -> None:
    assert applies(kind, PROGRAM)
    later = trained(Fault(kind, "strong", begins=1)).state_dict()
    now = trained(Fault(kind, "strong", begins=0)).state_dict()
    if kind != "task_switch":  # its first task is not everything
        assert all(torch.equal(healthy[name], later[name]) for name in healthy)
    assert any(not torch.equal(later[name], now[name]) for name in healthy)


def test_halves_share_neither_seeds_nor_families_nor_kinds_of_program() -> None:
    for one, other in combinations(HALVES, 2):
        seeds = [{job.seed for job in jobs(half)} for half in (one, other)]
        assert not seeds[0] & seeds[1]
        assert not set(families()[one]) & set(families()[other])
        if other != "wide":  # which draws every part at random, those of earlier halves among them
            assert not kinds_of(one) & kinds_of(other)


def kinds_of(half: str) -> set[tuple[Any, ...]]:
    fields = ("data", "net", "norm", "activation", "task")
    drawn = [[_listed(family.get(field)) for field in fields] for family in families()[half].values()]
    return {kind for choices in drawn for kind in product(*choices)}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


@pytest.mark.parametrize("half", HALVES)
def test_jobs_are_those_of_the_plan(half: str) -> None:
    found, plan, count = list(jobs(half)), families()["plan"][half], len(families()[half])
    assert len({job.key for job in found}) == len(found)
    assert sum(job.fault is None for job in found) == plan["healthy"] * count
    for strength in ("weak", "medium"):
        mine = [job for job in found if job.strength == strength and job.fault not in NOTHING]
        assert sorted(str(job.fault) for job in mine if not job.twin) == sorted(
            [*plan.get("faults", LEVELS)] * plan[strength]
        )
        assert {(j.family, j.fault, j.number, j.seed) for j in mine if j.twin} == {
            (j.family, j.fault, j.number, j.seed) for j in mine if not j.twin and plan["twins"]
        }
    assert all(applies(job.fault, job.program) for job in found if job.fault)


def test_a_twin_is_the_same_run_without_the_fault() -> None:
    faulty, twin = (trained(Fault("labels", "medium", begins=begins)).state_dict() for begins in (0, NEVER))
    plain = trained(Fault()).state_dict()
    assert all(torch.equal(plain[name], twin[name]) for name in plain)
    assert any(not torch.equal(plain[name], faulty[name]) for name in plain)


@pytest.mark.parametrize(
    "changes",
    [
        {"every": 3, "checks": 2},
        {"precision": "bf16-mixed"},
        {"net": "mobile"},
        {"net": "squeeze", "norm": "instance"},
        {"net": "inception", "activation": "prelu"},
        {"net": "bottleneck", "optimizer": "radam"},
        {"net": "vgg", "norm": "none", "optimizer": "plain_sgd"},
        {"net": "dilated", "task": "segmentation"},
    ],
)
def test_programs_of_other_kinds_train(changes: dict[str, Any]) -> None:
    module = trained(Fault(), replace(PROGRAM, **changes))
    assert module.checks == changes.get("checks", 1)


def test_a_program_is_drawn_from_its_family_alone() -> None:
    for half in HALVES:
        for name, family in families()[half].items():
            program = draw_program(half, name, 5)
            assert program == draw_program(half, name, 5)
            for field, allowed in family.items():
                assert getattr(program, field) in (allowed if isinstance(allowed, list) else [allowed])


def test_a_line_that_was_cut_off_is_trained_again(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text(json.dumps({"key": "a"}) + '\n{"key": "b", "che')
    assert load(tmp_path, "test") == [{"key": "a"}]
    assert load(tmp_path, "tune") == []


@pytest.mark.parametrize("strength", STRENGTHS)
def test_struck_layers_are_those_that_the_fault_is_put_into(strength: str) -> None:
    module = trained(Fault("frozen", strength, begins=0))
    level = LEVELS["frozen"][STRENGTHS.index(strength)]
    frozen = [
        layer for layer in module.net.modules() if isinstance(layer, torch.nn.Conv2d) and not layer.weight.requires_grad
    ]
    assert struck_layers("frozen", level, module.net) == frozen
    assert len(struck_layers("dying", level, module.net)) == len(struck_layers("cloning", level, module.net)) == 1
    assert struck_layers("labels", level, module.net) == []


@pytest.mark.slow
def test_a_run_records_what_the_rules_see(monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job("tune", "digits-imbalanced", "lost_group", "medium", 0)
    found: dict[str, Any] = run(job)
    begins = found["begins"]
    assert len(found["checks"]) == len(found["features"]) == job.program.checks
    not_learning = [sum(v for t, v in c.items() if t.startswith("health/not_learning/")) for c in found["checks"]]
    assert not any(not_learning[:begins])
    assert not_learning[begins] > 0
    stopped = {t.split("/", 2)[2] for t, v in found["checks"][begins].items() if "/not_learning/" in t and v}
    assert stopped == set(found["layers"])


def test_faults_of_the_data_are_in_the_batches_that_callbacks_see() -> None:
    """As where a data loader is at fault."""

    class Sees(L.Callback):
        targets: list[torch.Tensor] = []  # noqa: RUF012

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            self.targets.append(batch[1])

    L.seed_everything(0, verbose=False)
    sees = Sees()
    _trainer(PROGRAM, [sees]).fit(Learner(PROGRAM, Fault("one_class", "strong", 0)), *_loaders(PROGRAM, None))
    assert set(torch.cat(sees.targets).tolist()) == {1}


def test_a_filter_that_no_activation_of_its_own_follows_cannot_die() -> None:
    net = Learner(replace(PROGRAM, net="resnet"), Fault()).net
    (struck,) = struck_layers("dying", 0.5, net)
    assert struck.kernel_size == (3, 3)
