"""Answers to the tab's questions about one run, as plain values; the report embeds the same answers in its page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from convscope.dashboard.json_values import numbers
from convscope.dashboard.record import Run

Params = Mapping[str, str]


class NotThereError(LookupError):
    """The run, callback, layer or check that was asked for is not there; the message says what is."""


def overview(run: Run, name: str, revision: str) -> dict[str, Any]:
    """Everything about a run but its numbers."""
    manifest = run.manifest
    return {
        "name": name,
        "revision": revision,
        "version": manifest["version"],
        "steps": run.steps,
        "epochs": run.epochs,
        "triggers": run.triggers,
        "layers": [_layer(run, layer) for layer in run.layers],
        "families": [_family(run, family) for family in run.families],
        "incidents": run.incidents,
        "pictures": run.pictures,
        "class_names": next((one["class_names"] for one in manifest["heldout"] if one["class_names"]), None),
        "chance": _chance(run),
        "versions": manifest["versions"],
    }


def _layer(run: Run, name: str) -> dict[str, Any]:
    known = run.layer(name)
    return {key: known[key] for key in ("name", "kind", "channels", "spatial")}


def _family(run: Run, family: str) -> dict[str, Any]:
    return {
        "name": family,
        "kind": run.family(family)["kind"],
        "quantities": [
            {"name": name, **run.family(family)["quantities"].get(name, {})} for name in run.quantities(family)
        ],
        "summary": list(run.summary(family)),
        "filters": run.layers_with_filters(family),
        "matrices": run.layers_with_correlation(family),
        "arrays": run.arrays(family),
    }


def _chance(run: Run) -> float | None:
    """Score of a guess, of the first probe that tells it."""
    probes = [family for family in run.families if run.family(family)["kind"] == "probe"]
    rows = [run.summary(family)["chance"] for family in probes if "chance" in run.summary(family)]
    known = [float(value) for row in rows for value in row if value == value]
    return known[-1] if known else None


def values(run: Run, params: Params) -> dict[str, Any]:
    """A quantity of all layers at all checks."""
    family = _one_of(run.families, params, "family")
    return {"values": run.values(family, _one_of(run.quantities(family), params, "quantity"))}


def summary(run: Run, params: Params) -> dict[str, Any]:
    """Numbers over depth at all checks."""
    return dict(run.summary(_one_of(run.families, params, "family")))


def filters(run: Run, params: Params) -> dict[str, Any]:
    """One value per filter of a layer at all checks."""
    family = _one_of(run.families, params, "family")
    return {"values": run.filters(family, _one_of(run.layers_with_filters(family), params, "layer"))}


def correlation(run: Run, params: Params) -> dict[str, Any]:
    """A layer's filter correlation at one check; pairs from 0.5 on."""
    family = _one_of(run.families, params, "family")
    layer = _one_of(run.layers_with_correlation(family), params, "layer")
    found = run.correlation(family, layer, _check(run, params))
    if found is None:
        raise NotThereError(f"the correlation of {layer!r} was not measured at this check: choose another one")
    return {
        "matrix": numbers(found.matrix, digits=3),
        "order": found.order,
        "starts": found.starts,
        "partner": found.partner,
        "rho": numbers(found.rho, digits=3),
        "pairs": [[one, other, round(rho, 3)] for one, other, rho in found.pairs(0.5)],
    }


def array(run: Run, params: Params) -> dict[str, Any]:
    """A further array of a callback as it was at a check."""
    family = _one_of(run.families, params, "family")
    return {"value": run.array(family, _one_of(run.arrays(family), params, "name"), _check(run, params))}


def picture(run: Run, params: Params) -> bytes:
    """A picture as it was at a check, PNG."""
    tag = _one_of(run.pictures, params, "tag")
    found = run.picture(tag, _check(run, params))
    if found is None:
        raise NotThereError(f"the picture {tag!r} was not drawn yet at this check: choose a later one")
    return found


ANSWERS: dict[str, Callable[[Run, Params], Any]] = {
    "values": values,
    "summary": summary,
    "filters": filters,
    "correlation": correlation,
    "array": array,
    "picture": picture,
}
"""What can be asked about a run besides its overview, by name."""


def is_own(run: Run, tag: str) -> bool:
    """Return whether a scalar's tag is one that convscope's callbacks wrote, not the user's own."""
    family, _, rest = tag.partition("/")
    if family in ("zz_convscope", "convscope"):
        return True
    _, _, layer = rest.partition("/")
    if family not in run.families:
        return False
    return layer in run.layers if layer else rest in run.family(family)["summary"]


def losses_first(tags: list[str]) -> list[str]:
    """Tags sorted with those of losses at the front.

    >>> losses_first(["acc", "epoch", "val_loss", "train/loss"])
    ['train/loss', 'val_loss', 'acc', 'epoch']
    """
    return sorted(tags, key=lambda tag: ("loss" not in tag.lower(), tag))


def _one_of(known: list[str], params: Params, key: str) -> str:
    """A parameter that names one of what is there."""
    given = params.get(key)
    if given is None or given not in known:
        there = ", ".join(known[:10]) + (", …" if len(known) > 10 else "") if known else "none"
        raise NotThereError(f"{key}={given!r} is not there: there is {there}")
    return given


def _check(run: Run, params: Params) -> int:
    """The place of a check, the last by default."""
    count = len(run.steps)
    given = params.get("check", str(count - 1))
    if not count:
        raise NotThereError("there is no check yet: wait for the first one")
    if not given.isdecimal() or int(given) >= count:
        raise NotThereError(f"check={given!r} is not there: there are checks 0 to {count - 1}")
    return int(given)
