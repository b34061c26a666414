"""When checks are due, against a plain account of what the docs say; also of a run resumed without our state."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from convscope.callbacks.engine.findings import Moment
from convscope.callbacks.engine.schedule import Schedule


def at(trigger: str, epoch: int = 0, step: int = 0) -> Moment:
    return Moment(trigger, epoch, step)


def run(schedule: Schedule, epochs: int, batches: int, start: int = 0) -> list[tuple[str, int]]:
    """Triggers and optimizer steps of the checks of a fit; ``start`` is the epoch that it begins with."""
    made = []

    def ask(trigger: str, epoch: int, steps: int) -> None:
        when = at(trigger, epoch, steps)
        if schedule.is_due(when, steps):
            schedule.done(when, steps)
            made.append((trigger, steps))

    ask("start", start, start * batches)
    for epoch in range(start, epochs):
        for batch in range(batches):
            ask("step", epoch, epoch * batches + batch + 1)
        ask("validation", epoch, (epoch + 1) * batches)
    return made


INTERVALS = [given for given in itertools.product([0, 1, 2, 3], [0, 1, 3, 4], [False, True]) if given != (0, 0, False)]


@pytest.mark.parametrize(("every_epochs", "every_steps", "on_start"), INTERVALS)
def test_every_n_th_epoch_and_step_and_no_network_twice(every_epochs: int, every_steps: int, on_start: bool) -> None:
    epochs, batches = 7, 4
    expected = [("start", 0)] if on_start else []
    for step in range(1, epochs * batches + 1):
        by_step = every_steps > 0 and step % every_steps == 0
        expected += [("step", step)] if by_step else []
        ends = step % batches == 0 and every_epochs > 0 and (step // batches) % every_epochs == 0
        expected += [("validation", step)] if ends and not by_step else []
    assert run(Schedule(every_epochs, every_steps, on_start), epochs, batches) == expected


@pytest.mark.parametrize("arguments", [(1, 0, True), (2, 0, True), (1, 3, False), (0, 3, True), (3, 5, True)])
@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_resumed_run_makes_the_checks_of_one_that_was_never_stopped(arguments: Any, cut: int) -> None:
    whole = run(Schedule(*arguments), 6, 4)
    first, second = Schedule(*arguments), Schedule(*arguments)
    made = run(first, cut, 4)
    second.load_state_dict(first.state_dict())
    assert made + run(second, 6, 4, start=cut) == whole


def test_a_run_resumed_without_state_goes_on_with_the_next_check_that_is_due() -> None:
    assert run(Schedule(1, 0, True), 4, 4, start=2) == [("validation", 12), ("validation", 16)]
    assert run(Schedule(2, 0, True), 4, 4, start=3) == [("validation", 16)]
    assert run(Schedule(0, 3, True), 4, 4, start=3) == [("step", 13), ("step", 15)]


def test_state_of_a_version_that_did_not_know_of_measured_steps() -> None:
    for steps in range(6):  # a check that a step triggered is known for no step at all
        schedule = Schedule(1, 1, True)
        schedule.load_state_dict({"last_epoch": 0, "last_step": 5})
        assert schedule.is_due(at("validation", 1, steps), steps)
    schedule = Schedule(3, 4, True)
    schedule.load_state_dict({"last_epoch": 2, "last_step": 8})
    assert [epoch for epoch in range(3, 7) if schedule.is_due(at("validation", epoch), 99)] == [5, 6]
    assert [steps for steps in range(8, 14) if schedule.is_due(at("step"), steps)] == [12, 13]
    assert not schedule.is_due(at("start"), 8)


def test_each_validation_of_a_due_epoch_is_a_check_and_restart_forgets() -> None:
    schedule = Schedule(2, 0, True)
    for steps in (6, 8):
        assert schedule.is_due(at("validation", 1, steps), steps)
        schedule.done(at("validation", 1, steps), steps)
    assert not schedule.is_due(at("train", 2, 12), 12)
    assert schedule.state_dict() == {"last_epoch": 1, "last_step": 0, "measured": -1, "begun": True}
    schedule.restart()
    assert schedule.state_dict() == Schedule(2, 0, True).state_dict()
    schedule.done(at("start"), 0)
    assert not schedule.is_due(at("validation", 0), 4)
    assert schedule.is_due(at("validation", 1), 8)


def test_optimizers_that_step_together_are_caught_up_with() -> None:
    schedule, made = Schedule(0, 3, False), []
    for steps in range(2, 21, 2):  # two optimizers: the count jumps over multiples of three
        if schedule.is_due(at("step"), steps):
            schedule.done(at("step"), steps)
            made.append(steps)
    assert made == [4, 6, 10, 12, 16, 18]


@pytest.mark.parametrize("bad", [-1, True, 1.0, None])
@pytest.mark.parametrize("name", ["every_n_epochs", "every_n_train_steps"])
def test_intervals_are_whole_numbers(name: str, bad: Any) -> None:
    accepted = r"give a whole number, at least 1( \(such as 1\))?, or 0 for no such check"
    with pytest.raises(ValueError, match=rf"^{name}={bad!r}: {accepted}$"):
        Schedule(**{"every_n_epochs": 1, "every_n_train_steps": 1, "on_start": True, name: bad})


def test_a_schedule_without_checks_is_refused() -> None:
    with pytest.raises(ValueError, match="no check would ever be made"):
        Schedule(0, 0, False)
    for arguments in [(1, 0, False), (0, 1, False), (0, 0, True)]:
        Schedule(*arguments)
