"""The manifest of a record: layers in depth order, the quantities of each callback by layer, and their meaning."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from convscope.callbacks.engine.findings import Findings
from convscope.callbacks.engine.observer import Observer, Plan
from convscope.capture.data.heldout import HeldOut
from convscope.capture.network.trace import Layer
from convscope.dashboard import form
from convscope.dashboard.quantities import describe

Row = npt.NDArray[np.float32]


class Manifest:
    """Layers and quantities of a run, which grow as it measures; numbers are written in the manifest's order."""

    def __init__(self) -> None:
        self.versions: dict[str, str] = {}
        self._layers: dict[str, dict[str, Any]] = {}
        self._families: dict[str, dict[str, Any]] = {}
        self._heldout: list[dict[str, Any]] = []

    @property
    def count(self) -> int:
        """Number of layers."""
        return len(self._layers)

    def learn(self, plans: list[Plan], found: list[tuple[Observer, Findings]], own: dict[str, float]) -> None:
        """Take in the plans' layers, and new quantities."""
        self._heldout = [_heldout(plan) for plan in plans]
        layers = {layer.name: layer for plan in plans for layers in plan.layers.values() for layer in layers}
        self._layers |= {name: _layer(layer) for name, layer in layers.items() if name not in self._layers}
        for observer, findings in found:
            self._learn_family(observer, findings)
        checks = self._family("convscope", "convscope")
        checks["summary"] = _joined(checks["summary"], own)

    def _learn_family(self, observer: Observer, findings: Findings) -> None:
        family = self._family(findings.family, findings.kind or observer.family)
        family["layers"] = _joined(family["layers"], findings.layers)
        family["summary"] = _joined(family["summary"], findings.summary)
        for quantity in [name for result in findings.layers.values() for name in result.scalars]:
            if quantity not in family["quantities"]:
                family["quantities"][quantity] = self._describe(observer, family["kind"], quantity)

    def _describe(self, observer: Observer, kind: str, quantity: str) -> dict[str, Any]:
        """Description of a quantity by convscope; for a quantity of a user's callback, by its charts and maps."""
        known = describe(kind, quantity)
        spec = observer.maps.get(quantity)
        title = observer.charts.get(quantity, quantity.replace("_", " "))
        own = {"title": title if spec is None else spec.title, "unit": "" if spec is None else spec.unit}
        return {**own, "low": spec and spec.vmin, "high": spec and spec.vmax, "meaning": title, **known}

    def _family(self, name: str, kind: str) -> dict[str, Any]:
        return self._families.setdefault(name, {"kind": kind, "layers": [], "quantities": {}, "summary": []})

    def as_text(self) -> str:
        """JSON; the layers are those of every ``(layers,)`` tensor from now on."""
        layers = sorted(self._layers.values(), key=lambda layer: (layer["output"], layer["order"]))
        self._layers = {layer["name"]: layer for layer in layers}
        found = {
            "version": form.VERSION,
            "versions": self.versions,
            "layers": layers,
            "families": self._families,
            "heldout": self._heldout,
        }
        return json.dumps(found, default=str)

    def row(self, by_layer: dict[str, float]) -> Row:
        """Numbers by layer in the manifest's order, NaN for layers without one."""
        return np.array([by_layer.get(name, np.nan) for name in self._layers], dtype=np.float32)

    def rows(self, findings: Findings) -> dict[str, Row]:
        """One row for each quantity of the layers."""
        return {quantity: self.row(by_layer) for quantity, by_layer in findings.values.items()}

    def summary_row(self, family: str, summary: dict[str, float]) -> Row:
        """Numbers over depth in the manifest's order, NaN where there is none."""
        names = self._families[family]["summary"]
        return np.array([summary.get(name, np.nan) for name in names], dtype=np.float32)


def _joined(known: list[str], more: Any) -> list[str]:
    return list(dict.fromkeys([*known, *more]))


def _layer(layer: Layer) -> dict[str, Any]:
    return {
        "name": layer.name,
        "kind": layer.kind,
        "channels": layer.channels,
        "spatial": list(layer.spatial),
        "output": layer.is_output,
        "order": layer.order,
    }


def _heldout(plan: Plan) -> dict[str, Any]:
    heldout: HeldOut = plan.heldout
    named = getattr(heldout, "class_names", None)
    return {
        "observers": [observer.name for observer in plan.observers],
        "samples": heldout.total,
        "fingerprint": heldout.fingerprint,
        "class_names": None if named is None else [str(name) for name in named],
    }
