"""Rules that can never fire are named once, rightly counted, and only when it is certain."""

from __future__ import annotations

import logging
from typing import Any

import pytest

import convscope
from convscope.callbacks.alerts import DriftAlert
from convscope.callbacks.parts.unseen_metrics import COMPANIONS, FAMILIES
from tests.callbacks.conftest import Classifier


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if "nothing logs" in r.getMessage()]


def fitted(fit: Any, caplog: pytest.LogCaptureFixture, *callbacks: Any, epochs: int = 4) -> list[str]:
    with caplog.at_level(logging.INFO):
        fit([*callbacks, DriftAlert()], max_epochs=epochs, limit_train_batches=1)
    return said(caplog)


def test_the_callbacks_that_are_missing_are_named_and_the_rules_counted(
    fit: Any, caplog: pytest.LogCaptureFixture
) -> None:
    # Of 38: 11 on health, 4 on drift; importance 1, probe 3, correlation is there, and the 8 on training batches need
    # no callback. Nobody is told to log an accuracy.
    assert fitted(fit, caplog, convscope.FilterCorrelation(pictures=False)) == [
        "convscope: DriftAlert: 20 of 46 rules are inactive because nothing logs drift/*, health/*, importance/*, "
        "probe/*; add RepresentationDrift(), FilterHealth(), FilterImportance(), LayerProbe()"
    ]


def test_after_a_resume_with_fewer_callbacks_rules_that_matched_before_count_too(
    fit: Any, caplog: pytest.LogCaptureFixture
) -> None:
    first = fit([convscope.FilterCorrelation(), convscope.FilterHealth(), DriftAlert(actions=[])], max_epochs=1)
    path = f"{first.trainer.default_root_dir}/last.ckpt"
    first.trainer.save_checkpoint(path)
    with caplog.at_level(logging.INFO):
        fit([convscope.FilterCorrelation(), DriftAlert(actions=[])], max_epochs=2, ckpt_path=path)
    *_, sentence = said(caplog)
    assert "12 of 46 rules are inactive because nothing logs health/*; add FilterHealth()" in sentence


def test_a_suite_says_how_many_rules_judge_it(fit: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        fit(convscope.suite("light"), max_epochs=1, limit_train_batches=1)
    assert said(caplog) == []
    (sentence,) = [r.getMessage() for r in caplog.records if "rules judge" in r.getMessage()]
    assert sentence == (
        "convscope: alerts: 29 of 46 rules judge what these callbacks measure; for the others add "
        "RepresentationDrift(), FilterHealth(), FilterImportance(), or take suite('standard')"
    )


def test_a_callback_whose_tags_begin_at_its_second_check_is_not_missing(
    fit: Any, caplog: pytest.LogCaptureFixture
) -> None:
    late = {"pictures": False, "on_start": False}
    drift = convscope.RepresentationDrift(**late, every_n_epochs=2)
    health = convscope.FilterHealth(**late)
    (sentence,) = fitted(fit, caplog, drift, health)
    assert "drift" not in sentence
    assert "health" not in sentence
    assert "7 of 46 rules are inactive" in sentence  # correlation 3, importance 1, probe 3
    assert sentence.endswith("add FilterCorrelation(), FilterImportance(), LayerProbe()")


def test_losses_of_other_names_are_waited_for_and_named_together(fit: Any, caplog: pytest.LogCaptureFixture) -> None:
    rules = [rule for rule in convscope.rules.default() if "loss" in rule.name]
    own = "4 of 4 rules are inactive because nothing logs train/loss, train/loss_epoch, train_loss, train_loss_epoch, "
    for epochs, expected in ((2, []), (4, [own])):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            fit([DriftAlert(rules)], max_epochs=epochs, limit_train_batches=1, module=Unnamed())
        found = said(caplog)
        assert len(found) == len(expected)
        assert all(part in sentence for part, sentence in zip(expected, found, strict=True))


class Unnamed(Classifier):
    """Logs no loss."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        return

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.net(batch[0]).square().mean()


def test_what_a_rule_insists_on_is_warned_of_once_its_callback_has_had_its_chance(fit: Any) -> None:
    def rule(metric: str) -> DriftAlert:
        return DriftAlert([{"name": "a", "when": [{"metric": metric, "detector": {"kind": "finite"}}]}])

    drift = {"pictures": False, "on_start": False}
    with pytest.warns(UserWarning, match=r"'drift/cka_previos/\*' \(nearest: drift/cka_previous") as caught:
        fit([convscope.RepresentationDrift(**drift), rule("drift/cka_previos/*")], max_epochs=4, limit_train_batches=1)
    assert len([w for w in caught if "DriftAlert" in str(w.message)]) == 1


def test_a_rule_on_what_comes_at_the_second_check_is_not_warned_of(fit: Any, recwarn: pytest.WarningsRecorder) -> None:
    rule = {"name": "a", "when": [{"metric": "drift/cka_previous/*", "detector": {"kind": "finite"}}]}
    drift = convscope.RepresentationDrift(pictures=False, on_start=False)
    fit([drift, DriftAlert([rule])], max_epochs=3, limit_train_batches=1)
    assert not [w for w in recwarn if "DriftAlert" in str(w.message)]


def test_families_are_those_of_the_callbacks() -> None:
    assert {family: getattr(convscope, name).family for family, name in FAMILIES.items()} == {f: f for f in FAMILIES}
    globs = {glob for rule in convscope.rules.default() for one in rule.conditions for glob in one.globs}
    own = {"train", "val", "convscope", "zz_convscope", "batches", "gradients"}
    companions = {family: getattr(convscope, name).family for family, name in COMPANIONS.items()}
    assert companions == {family: family for family in COMPANIONS}
    assert {glob.split("/")[0] for glob in globs if "/" in glob} - own == FAMILIES.keys() | COMPANIONS.keys()
