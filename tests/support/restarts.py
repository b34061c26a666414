"""A judge that is stopped in the middle of a run, and goes on from its state as JSON holds it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

from convscope.alerts import Incident, Judge, Rule


def restarted(rules: Callable[[], Iterable[Rule]], checks: list[dict[str, float]], cut: int) -> list[Incident]:
    """The incidents of a run whose judge is another one, made with rules of its own, from check ``cut`` on."""
    first, second = Judge(rules()), Judge(rules())
    for epoch, values in enumerate(checks[:cut]):
        first.update(values, epoch)
    state = json.loads(json.dumps(first.state_dict()))
    second.watch.load_state_dict(state["watch"])
    second.ledger.load_state_dict(state["ledger"])
    for epoch, values in enumerate(checks[cut:], cut):
        second.update(values, epoch)
    return second.incidents
