"""Effects. Gives a criterion what it asked for about each layer, from as few passes over the calibration data as fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tasks.contract import Finding
from tasks.examples.fitting import Fitted
from tasks.loading.models import Layer, Model
from tasks.masks.criteria import NOTHING, OF_GRADIENTS, OF_MOMENTS, Criterion, Seen, by_row, norms_by_row
from tasks.statistics.calibration import Statistics, input_norms_over
from tasks.statistics.gradients import gradients
from tasks.statistics.passes import Passes


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """What calibration saw, as a criterion reads it."""

    needs: frozenset[str] = frozenset()
    statistics: Statistics | None = None
    """None where nothing was asked for that takes data."""
    gradients: Mapping[str, Passes] = field(default_factory=dict)
    """By field of `Seen`."""
    _still: dict[str, str] = field(default_factory=dict)
    """Layers without any gradient, and which kind they were asked for."""

    def of(self, layer: Layer) -> Seen:
        """Of a whole layer that calibration came to."""
        if self.statistics is None:
            return NOTHING
        seen = {name: passes.of(layer) for name, passes in self.gradients.items()}
        for name, derivatives in seen.items():
            if not bool(derivatives.any()):
                self._still[layer.name] = name
        if "norms" in self.needs:
            seen["norms"] = norms_by_row(layer, self.statistics.squares[layer.name])
        for name in self.needs & OF_MOMENTS:
            seen[name] = by_row(layer, getattr(self.statistics.moments[layer.name], name))
        return Seen(**seen)

    def findings(self) -> Iterator[Finding]:
        """More passes than one over the data, and layers to which no gradient came."""
        for name, passes in self.gradients.items():
            if passes.count > 1:
                size = sum(map(passes.size, passes.layers))
                message = (
                    f"{passes.count} passes over the calibration data gathered {size} bytes of {name}, "
                    f"of which at most {passes.limit} are held, or a single layer's"
                )
                yield Finding(kind="calibration_passes", subject="model", message=message)
        for layer, name in self._still.items():
            message = f"all its {name} are zero: where nothing else tells its weights apart, their order does"
            yield Finding(kind="zero_gradient", subject=layer, message=message)


def statistics_for(criterion: Criterion, model: Model, layers: Sequence[Layer], fitted: Fitted) -> Statistics:
    """One pass forward: which layers are reached, and what their inputs are like, as far as the criterion asks."""
    return input_norms_over(model, layers, fitted, with_moments=bool(criterion.needs & OF_MOMENTS))


def gathered(
    criterion: Criterion, statistics: Statistics | None, model: Model, layers: Sequence[Layer], fitted: Fitted
) -> Gathered:
    """All that a criterion asks for; `layers` are those that were reached, in the order in which they will be asked for."""
    return Gathered(
        needs=criterion.needs,
        statistics=statistics,
        gradients={
            name: gradients(model, layers, fitted, squared=name == "gradient_norms")
            for name in sorted(criterion.needs & OF_GRADIENTS)
        },
    )
