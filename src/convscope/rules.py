"""Rules for :class:`~convscope.DriftAlert`: the ones that convscope ships, and your own from YAML.

``convscope.rules.default()`` is a list to add to or to pick from, ``convscope.rules.convergence()`` one that is off by
default; ``convscope.rules.load("rules.yaml")`` reads a file
of the same form as the one that convscope ships (``alerts/default_rules.yaml``).
"""

from convscope.alerts.rules import Condition, Rule
from convscope.alerts.rules import convergence_rules as convergence
from convscope.alerts.rules import default_rules as default
from convscope.alerts.rules import load_rules as load

__all__ = ["Condition", "Rule", "convergence", "default", "load"]
