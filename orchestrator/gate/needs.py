"""Pure. How many examples an answer of the gate needs where there are too few for one."""

from __future__ import annotations

import math

from orchestrator.gate.comparison import Comparison
from orchestrator.gate.inference import FEW_CHANGES
from orchestrator.gate.statistics import answers_needed, examples_needed, fewest_flips


def needed(
    part: Comparison,
    whole: Comparison,
    margin: float,
    *,
    metric: str,
    alpha: float,
    tests: int,
    least: int,
) -> int | None:
    """Examples, or clusters, in all; None where no number suffices, as for a margin of 0.

    So many that a change without harm is found to be within its margin nine times in ten. Where there are as many
    already, so many that a drop such as was observed would be found to be within, or to be harm among `tests` tests.
    """
    is_known = (part.changed or 0) >= FEW_CHANGES or whole.spread is None
    own = part if is_known else whole  # so few changes do not tell how unsteady a slice is
    spread, is_counted = own.spread or 0.0, part.flips is not None
    single = part.worse is not None and metric != "fidelity" and part.units == part.samples
    room = math.log1p(margin) if metric == "perplexity" else margin

    def within(drop: float) -> int | None:
        if single:
            return answers_needed(spread, drop, margin, alpha)
        return examples_needed(spread, room - drop, alpha) if room > drop else None

    counts = [within(0.0), answers_needed(0.0, 0.0, margin, alpha) if is_counted else least]
    if None in counts:
        return None
    enough = max(least, *(count for count in counts if count is not None))
    if enough > part.units:
        return enough
    drop = max(0.0, part.drop or 0.0)
    drop = math.log1p(drop) if metric == "perplexity" else drop
    if drop < room:
        more = within(drop)
    else:
        more = examples_needed(spread, drop, alpha / max(1, tests))
        if (
            more is not None and part.changed
        ):  # fewer changes than these are no evidence, however large they are
            more = max(more, math.ceil(fewest_flips(max(1, tests), alpha) * part.units / part.changed))
    return None if more is None else max(more, part.units + 1)
