"""What tests ask of a plan."""

from __future__ import annotations

from collections import Counter


def tasks_of(plan, keys=None):
    return Counter(plan.units[key].task.value for key in (plan.units if keys is None else keys))
