"""Answers to what the views may ask, of whole runs, within a number of bytes: the data of a report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from convscope.dashboard import answers
from convscope.dashboard.json_values import as_json
from convscope.dashboard.moments import count
from convscope.dashboard.record import Run
from convscope.dashboard.scalars import ScalarCurve, thinned

BUDGET = 15_000_000
"""Bytes of a report's data: what a mail can carry."""
_FEWEST, _MOST = 20, 300  # checks of a run that are kept however long it was, and however small it is
_CURVES = 200  # of the user's own scalars
_SAFE = "-_.!~*'()"  # characters that JavaScript's encodeURIComponent leaves alone


@dataclass
class Embedding:
    """Parts as JSON, each once, and the place of the part that answers each question.

    Attributes:
        parts: JSON texts.
        places: Place in ``parts`` by :func:`key`.
        notes: Sentences on what was left out.
    """

    parts: list[str] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    size: int = 0
    _known: dict[str, int] = field(default_factory=dict)

    def add(self, path: str, parameters: dict[str, Any], answer: Any, most: int | None = None) -> bool:
        """Keep an answer, unless with it there were more than ``most`` bytes; return whether it is kept."""
        text, name = as_json(answer), key(path, parameters)
        more = len(name) + 12 + (0 if text in self._known else len(text))
        if most is not None and self.size + more > most:
            return False
        if text not in self._known:
            self._known[text] = len(self.parts)
            self.parts.append(text)
        self.places[name] = self._known[text]
        self.size += more
        return True

    def as_text(self) -> str:
        """The data as JSON that may stand in a page's script element."""
        text = f'{{"parts":[{",".join(self.parts)}],"places":{json.dumps(self.places)}}}'
        return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def key(path: str, parameters: dict[str, Any]) -> str:
    """Name of an answer, as the front end makes it.

    >>> key("values", {"run": "a b", "family": "probe"})
    'values?family=probe&run=a%20b'
    """
    pairs = [f"{name}={quote(str(value), safe=_SAFE)}" for name, value in sorted(parameters.items())]
    return f"{path}?{'&'.join(pairs)}" if pairs else path


def embed(runs: dict[str, Run], curves: dict[str, dict[str, ScalarCurve]], budget: int = BUDGET) -> Embedding:
    """The data of a report.

    Args:
        runs: Records by the names that the report gives them.
        curves: The scalars of each run, by tag.
        budget: Bytes for all of them. Long runs are thinned until their numbers take half of it; the details of a
            check (correlations, further arrays, pictures) are kept for as many checks as the rest has space for.
    """
    made = Embedding()
    shown = {name: _shown(run, budget // len(runs), made, name) for name, run in runs.items()}
    listed = [_listed(name, run) for name, run in shown.items()]
    made.add("runs", {}, {"runs": listed})
    for name, run in shown.items():
        _add_numbers(made, name, run)
        _add_curves(made, name, run, curves.get(name, {}))
    for place, (name, run) in enumerate(shown.items()):
        _add_details(made, name, run, made.size + (budget - made.size) // (len(shown) - place))
    return made


def _listed(name: str, run: Run) -> dict[str, Any]:
    return {"name": name, "checks": len(run.steps), "revision": "report", "problem": None}


def _shown(run: Run, budget: int, made: Embedding, name: str) -> Run:
    """The run with as many checks as fit: the first and the last, those of incidents, and an even spread."""
    filters = sum(run.layer(layer)["channels"] for family in run.families for layer in run.layers_with_filters(family))
    quantities = sum(len(run.quantities(family)) for family in run.families)
    per_check = 8 * (quantities * len(run.layers) + filters) + 1
    checks, most = len(run.steps), min(_MOST, max(_FEWEST, budget // 2 // per_check))
    if checks <= most:
        return run
    marked = {0, checks - 1, *incident_checks(run)[:most]}
    spread = [round(place * (checks - 1) / (most - 1)) for place in range(most)]
    kept = sorted(marked | set(spread))
    made.notes.append(f"{name}: {len(kept)} of {count(checks, 'check')} are shown, with those of incidents.")
    return run.at_checks(kept)


def incident_checks(run: Run) -> list[int]:
    """Places of the checks at which incidents were opened or closed."""
    moments = [moment for one in run.incidents for moment in (one.get("opened") or one, one.get("closed"))]
    steps = {moment.get("step") for moment in moments if moment}
    return [place for place, step in enumerate(run.steps) if step in steps]


def _add_numbers(made: Embedding, name: str, run: Run) -> None:
    made.add("run", {"run": name}, answers.overview(run, name, "report"))
    for family in run.families:
        asked = {"run": name, "family": family}
        made.add("summary", asked, run.summary(family))
        for quantity in run.quantities(family):
            made.add("values", asked | {"quantity": quantity}, {"values": run.values(family, quantity)})
        for layer in run.layers_with_filters(family):
            made.add("filters", asked | {"layer": layer}, answers.filters(run, asked | {"layer": layer}))


def _add_curves(made: Embedding, name: str, run: Run, curves: dict[str, ScalarCurve]) -> None:
    tags = answers.losses_first([tag for tag in curves if not answers.is_own(run, tag)])[:_CURVES]
    made.add("curves", {"run": name}, {"tags": tags})
    for tag in tags:
        curve = thinned(curves[tag], 500)
        made.add("curve", {"run": name, "tag": tag}, {"steps": list(curve), "values": list(curve.values())})


def _add_details(made: Embedding, name: str, run: Run, most: int) -> None:
    """Details of checks while they fit, the most telling checks first."""
    whole = 0
    for check in _by_worth(run):
        kept = [made.add(path, asked, answer, most) for path, asked, answer in _details(name, run, check)]
        if not all(kept):
            break
        whole += 1
    if whole < len(run.steps):
        made.notes.append(
            f"{name}: correlations, predictions and pictures of {whole} of {count(len(run.steps), 'check')}."
        )


def _by_worth(run: Run) -> list[int]:
    """Checks: the last, the first, those of incidents, then those that halve the gaps."""
    count = len(run.steps)
    order = [count - 1, 0, *incident_checks(run)]
    step = count
    while step > 1:
        step = (step + 1) // 2
        order += range(0, count, step)
    return list(dict.fromkeys(order))[:count] if count else []


def _details(name: str, run: Run, check: int) -> Iterator[tuple[str, dict[str, Any], Any]]:
    at = {"run": name, "check": check}
    for family in run.families:
        for layer in run.layers_with_correlation(family):
            asked = at | {"family": family, "layer": layer}
            if run.correlation(family, layer, check) is not None:
                yield "correlation", asked, answers.correlation(run, {key: str(one) for key, one in asked.items()})
        for array in run.arrays(family):
            yield "array", at | {"family": family, "name": array}, {"value": run.array(family, array, check)}
    for tag in run.pictures:
        if (found := run.picture(tag, check)) is not None:
            yield "picture", at | {"tag": tag}, found
