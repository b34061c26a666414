"""Rules as data: metrics to watch, conditions to fire, and the sentence. Plain mappings, so YAML holds them too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import partial
from importlib import resources
from pathlib import Path
from string import Formatter
from typing import Any, Literal, TypeVar

import yaml

from convscope._arguments import whole_number
from convscope.alerts.detectors import DETECTORS, Detector, Gate, quorum

T = TypeVar("T")
Severity = Literal["info", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")
TRANSFORMS = ("value", "change", "log", "log_change")
PLACEHOLDERS = (
    "layer",
    "layers",
    "count",
    "others",
    "metric",
    "value",
    "expected",
    "change",
    "percent",
    "points",
    "factor",
)


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One condition of a rule.

    Args:
        metric: Glob, or globs, over the tags in ``trainer.callback_metrics``: ``"probe/accuracy/*"``, ``"val_loss"``.
            Every tag that matches is a series of its own.
        detector: ``{"kind": name, **arguments}``: :data:`~convscope.alerts.detectors.DETECTORS` and their arguments
            (``warm_up``, ``persistence``, ``out_of`` and ``direction`` included; ``cool_down`` is the rule's).
        transform: What the detector sees of a series: its ``value``, its ``change`` since the last, its ``log``
            (base 10; values of 0 or below are skipped) or ``log_change``, in decades.
        depth: Range of depth in which matching series count: ``(0.5, 1)`` is the deeper half.
        quorum: Number of series that must agree: a count, or a share in (0, 1).
        minus: Tag whose value at the same check is taken off before the transform: ``probe/chance`` makes accuracies
            comparable between data sets. While it is not logged, nothing matches.
        per: Tag by whose value at the same check each value is divided, before the transform and after ``minus``:
            ``convscope/learning_rate`` makes updates comparable along a schedule. While it is not logged, or 0,
            nothing matches. In both, a tag that ends in ``/*`` is that of the same layer.
        positions: Least number of positions (pixels) of a layer whose series count: with 2 layers that give one number
            per filter and sample are left out, as the gates of squeeze-and-excitation and what follows global pooling.
            It is read from ``convscope/positions/<layer>``; layers that are not there count.
        alpha: Instead of each series by itself, control the false discovery rate over all of them at this level
            (Benjamini–Hochberg). Needs a detector with p-values: ``robust_z`` or ``ewma``.

    Raises:
        ValueError: if a field is out of range; it names the field.
    """

    metric: str | Sequence[str]
    detector: Mapping[str, Any]
    transform: str = "value"
    depth: Sequence[float] = (0.0, 1.0)
    quorum: float = 1
    minus: str | None = None
    per: str | None = None
    positions: int = 1
    alpha: float | None = None

    def __post_init__(self) -> None:
        _check_globs(self.globs)
        if self.transform not in TRANSFORMS:
            raise ValueError(f"transform: got {self.transform!r}; give one of {', '.join(TRANSFORMS)}")
        _check_depth(self.depth)
        quorum(1, self.quorum)
        whole_number("positions", self.positions, least=1)
        for name, one in self.others.items():
            if not isinstance(one, str) or not one:
                raise ValueError(f"{name}: got {one!r}; give one tag, such as probe/chance")
        detector = self.make_detector()
        if self.alpha is not None and not (isinstance(self.alpha, float) and 0 < self.alpha < 1):
            raise ValueError(f"alpha: got {self.alpha!r}; give a rate in (0, 1)")
        if self.alpha is not None and not detector.gives_p_values:
            raise ValueError(f"alpha: {self.detector['kind']!r} has no p-values; use robust_z or ewma, or a quorum")

    @property
    def globs(self) -> tuple[str, ...]:
        """The globs as a tuple."""
        return (self.metric,) if isinstance(self.metric, str) else tuple(self.metric)

    @property
    def others(self) -> dict[str, str]:
        """Tags besides the metric's own that are read: those of ``minus`` and ``per``, where given."""
        return {name: one for name in ("minus", "per") if (one := getattr(self, name)) is not None}

    def make_detector(self) -> Detector:
        """A new detector for one series."""
        if not isinstance(self.detector, Mapping):
            raise ValueError(f"detector: got {self.detector!r}; give a mapping such as {{kind: threshold, limit: 0.5}}")
        arguments = dict(self.detector)
        kind = arguments.pop("kind", None)
        if kind not in DETECTORS:
            raise ValueError(f"detector.kind: got {kind!r}; give one of {', '.join(DETECTORS)}")
        accepted = [f for f in fields(DETECTORS[kind]) if f.init and f.name != "cool_down"]
        _check_keys("detector.", arguments, accepted)
        try:
            return DETECTORS[kind](**arguments)
        except (ValueError, TypeError) as error:
            raise ValueError(f"detector.{error}") from error


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule: conditions to fire, and the message.

    Args:
        name: Name of the rule in tags (``alert/<name>``), files and checkpoints.
        when: Conditions, all of which must hold at the same check.
        message: The sentence, with placeholders ``{layer}`` (the worst), ``{layers}``, ``{others}`` ("; also: conv2"
            or nothing), ``{count}``, ``{metric}``, ``{value}``, ``{expected}``, ``{change}``, ``{percent}`` and
            ``{points}`` (changes times 100, relative and absolute, without sign), ``{factor}`` (times more or less than
            before), all of the first condition.
        severity: ``info``, ``warning`` or ``critical``.
        alone: Severity of an incident in which, and beside which, no other rule of at least ``warning`` has fired: for
            what a sound run can show for once. None: no other than ``severity``.
        likely: Probable cause.
        look_at: Place to look first.
        unless: Conditions that excuse it: the rule is silent while any of them holds. Afterwards it fires if its
            own conditions still hold.
        cool_down: Number of checks after an alert during which the rule is silent. It is also silent as long as its
            conditions continue to hold.
        optional: Say nothing if no tag matches: the rule is for those who use the callback that logs it.
        rank: Place in the chain from cause to consequence, 0 (a cause) to 100 (a consequence): of the alerts of one
            check, the one of the lowest rank heads the incident.
        follows: Names (or globs) of rules whose open incident this one may be a consequence of: it is added to that
            incident and does not open its own.
        calibrated: What :func:`~convscope.alerts.calibrate` may do to it: True: move its limits; ``"wait"``: make it
            wait for more checks, for rules about what has not come yet; False: nothing, for what is wrong at any size,
            such as a NaN.
        held_by: Names (or globs) of rules during whose open incident this one would be misleading: it does not fire,
            and starts over from the new level once the incident is closed.

    Raises:
        ValueError: if a field is out of range; it names the rule and the field.

    Example:
        >>> rule = Rule(
        ...     name="val_loss_up",
        ...     when=[{"metric": "val_loss", "detector": {"kind": "robust_z", "limit": 4.0, "direction": "up"}}],
        ...     message="{metric} is {value:.2f}, not {expected:.2f}",
        ... )
        >>> rule.severity, rule.conditions[0].globs
        ('warning', ('val_loss',))
    """

    name: str
    when: Sequence[Condition | Mapping[str, Any]]
    message: str = "{metric}: {value:.3g}"
    severity: Severity = "warning"
    alone: Severity | None = None
    likely: str = ""
    look_at: str = ""
    unless: Sequence[Condition | Mapping[str, Any]] = ()
    cool_down: int = 5
    optional: bool = False
    rank: int = 50
    follows: Sequence[str] = ()
    held_by: Sequence[str] = ()
    calibrated: bool | Literal["wait"] = True
    conditions: tuple[Condition, ...] = field(init=False)
    excuses: tuple[Condition, ...] = field(init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or set(self.name) & set("/ \t\n"):
            raise ValueError(f"name: got {self.name!r}; give a word without blanks and slashes, such as dead_filters")
        try:
            self._check()
        except ValueError as error:
            raise ValueError(f"rule {self.name!r}, field {error}") from error

    def _check(self) -> None:
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity: got {self.severity!r}; give one of {', '.join(SEVERITIES)}")
        if self.alone is not None and self.alone not in SEVERITIES:
            raise ValueError(f"alone: got {self.alone!r}; give one of {', '.join(SEVERITIES)}, or leave it out")
        for name in ("message", "likely", "look_at"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name}: got {getattr(self, name)!r}; give a text")
        if not isinstance(self.optional, bool):
            raise ValueError(f"optional: got {self.optional!r}; give true or false")
        if not isinstance(self.calibrated, bool) and self.calibrated != "wait":
            raise ValueError(f"calibrated: got {self.calibrated!r}; give true, false or wait")
        _check_message(self.message)
        if not isinstance(self.rank, int) or isinstance(self.rank, bool) or not 0 <= self.rank <= 100:
            raise ValueError(f"rank: got {self.rank!r}; give a whole number from 0 (a cause) to 100 (a consequence)")
        for name in ("follows", "held_by"):
            _check_names(name, getattr(self, name))
        Gate(cool_down=self.cool_down)
        if not self.when:
            raise ValueError(f"when: got {self.when!r}; give a list of at least one condition")
        object.__setattr__(self, "conditions", tuple(_conditions("when", self.when)))
        object.__setattr__(self, "excuses", tuple(_conditions("unless", self.unless)))

    def as_dict(self) -> dict[str, Any]:
        """The rule as a mapping of plain values, without fields that have their default, as YAML holds it."""
        mine = {**_given(self), "when": [_given(condition) for condition in self.conditions]}
        return mine | ({"unless": [_given(condition) for condition in self.excuses]} if self.excuses else {})


def _given(instance: Any) -> dict[str, Any]:
    """Arguments of a dataclass that differ from their default, as plain values."""
    found = {f.name: _plain(getattr(instance, f.name)) for f in fields(instance) if f.init and f.name != "unless"}
    defaults = {f.name: _plain(f.default) for f in fields(instance)}
    return {name: value for name, value in found.items() if value != defaults[name]}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def load_rules(source: str | Path | Iterable[Rule | Mapping[str, Any]]) -> list[Rule]:
    """Rules from a YAML file, or from rules and mappings.

    Args:
        source: Path of a YAML file that holds a list of rules (read with the safe loader), or the list itself.

    Raises:
        ValueError: if a rule is faulty; it names the file, the rule and the field.
        FileNotFoundError: if there is no such file.
    """
    if isinstance(source, str | Path):
        return _located(f"{source}: ", lambda: _rules(_read(Path(source).read_text(encoding="utf-8"))))
    return _rules(list(source))


def default_rules() -> list[Rule]:
    """The rules that convscope ships, from ``alerts/default_rules.yaml``.

    Example:
        >>> [rule.name for rule in default_rules() if rule.severity == "critical"][:2]
        ['not_finite', 'non_finite_values']
    """
    return _shipped("default_rules.yaml")


def convergence_rules() -> list[Rule]:
    """The rule that says which layers have converged, and what freezing them saves: ``info``, off by default.

    Example:
        >>> [(rule.name, rule.severity) for rule in convergence_rules()]
        [('converged', 'info')]
    """
    return _shipped("more_rules.yaml")


def _shipped(name: str) -> list[Rule]:
    return _rules(_read(resources.files("convscope.alerts").joinpath(name).read_text(encoding="utf-8")))


def _read(text: str) -> list[Any]:
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"this is not YAML that the safe loader reads: {error}") from error
    if not isinstance(found, list):
        raise ValueError(f"got a {type(found).__name__}; give a list of rules, each beginning with '- name: …'")
    return found


def _rules(source: list[Any]) -> list[Rule]:
    rules = [_located(f"rule {place}: ", partial(_rule, item)) for place, item in enumerate(source, 1)]
    names = [rule.name for rule in rules]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"field name: {', '.join(map(repr, twice))} is given to more than one rule; names are unique")
    return rules


def _rule(item: Any) -> Rule:
    if isinstance(item, Rule):
        return item
    if not isinstance(item, Mapping):
        raise ValueError(f"got {item!r}; give a mapping with name and when")
    _check_keys("field ", item, [f for f in fields(Rule) if f.init])
    return Rule(**item)


def _conditions(name: str, given: Any) -> Iterable[Condition]:
    if isinstance(given, str | Mapping) or not isinstance(given, Sequence):
        raise ValueError(f"{name}: got {given!r}; give a list of conditions")
    for place, item in enumerate(given):
        yield item if isinstance(item, Condition) else _located(f"{name}[{place}].", partial(_condition, item))


def _condition(item: Any) -> Condition:
    if not isinstance(item, Mapping):
        raise ValueError(f"metric: got {item!r} for a condition; give a mapping with metric and detector")
    _check_keys("", item, [f for f in fields(Condition) if f.init])
    return Condition(**item)


def _check_keys(where: str, given: Mapping[str, Any], accepted: Sequence[Field[Any]]) -> None:
    names = [f.name for f in accepted]
    for key in given:
        if key not in names:
            raise ValueError(f"{where}{key}: there is no such field; give some of {', '.join(names)}")
    for f in accepted:
        if f.default is MISSING and f.default_factory is MISSING and f.name not in given:
            raise ValueError(f"{where}{f.name}: is missing")


def _check_globs(globs: tuple[Any, ...]) -> None:
    if not globs or not all(isinstance(glob, str) and glob for glob in globs):
        raise ValueError(f"metric: got {globs!r}; give a glob such as 'probe/accuracy/*', or a list of globs")


def _check_names(field: str, given: Any) -> None:
    if isinstance(given, str) or not isinstance(given, Sequence) or not all(isinstance(n, str) and n for n in given):
        raise ValueError(f"{field}: got {given!r}; give a list of names of rules, or globs such as '*_surge'")


def _check_depth(depth: Any) -> None:
    numbers = isinstance(depth, Sequence) and len(depth) == 2 and all(isinstance(d, int | float) for d in depth)
    if not numbers or not 0 <= depth[0] < depth[1] <= 1:
        raise ValueError(f"depth: got {depth!r}; give [from, to] with 0 <= from < to <= 1")


def _check_message(message: str) -> None:
    try:
        names = [name for _, name, _, _ in Formatter().parse(message) if name is not None]
    except ValueError as error:
        raise ValueError(f"message: got {message!r}: {error}") from error
    for name in names:
        if name not in PLACEHOLDERS:
            known = ", ".join(f"{{{p}}}" for p in PLACEHOLDERS)
            raise ValueError(f"message: there is no placeholder {{{name}}}; give some of {known}")
    try:
        message.format(**dict.fromkeys(PLACEHOLDERS[:5], ""), **dict.fromkeys(PLACEHOLDERS[5:], 0.0))
    except ValueError as error:
        raise ValueError(f"message: got {message!r}: {error}") from error


def _located(where: str, make: Callable[[], T]) -> T:
    """Result of ``make``; its errors name the place."""
    try:
        return make()
    except ValueError as error:
        raise ValueError(f"{where}{error}") from error
