"""Pure. (weight, what calibration saw) -> a score for each weight; the lowest scores are pruned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np
import torch

from tasks.contract import BadInput
from tasks.loading.models import Layer, rows_of
from tasks.offers import names_offered, offered

ENTRY_POINTS = "prunefleet.criteria"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a criterion asked for, of some rows of a layer: float32, one number an input, [1, inputs], or one a weight,
    [rows, inputs / groups]. What it did not ask for is None.
    """

    norms: torch.Tensor | None = None
    """||X_j||_2 over all input vectors of the calibration data."""
    magnitudes: torch.Tensor | None = None
    """Mean of |X_j|."""
    means: torch.Tensor | None = None
    """Mean of X_j."""
    variances: torch.Tensor | None = None
    """Mean of (X_j - its mean)^2."""
    gradients: torch.Tensor | None = None
    """Derivative of the loss, summed over all examples, by the weight."""
    gradient_norms: torch.Tensor | None = None
    """Root of the sum over examples of the squared derivative of the example's own loss by the weight."""
    drawn: torch.Tensor | None = None
    """Numbers from 0 to 1, by the recipe's seed."""

    def rows(self, rows: slice) -> Seen:
        """Of some of these rows."""
        found = {name: value for name in KINDS if (value := getattr(self, name)) is not None}
        return Seen(**{name: value if len(value) == 1 else value[rows] for name, value in found.items()})

    def to(self, device: torch.device) -> Seen:
        """The same on a device."""
        found = {name: value for name in KINDS if (value := getattr(self, name)) is not None}
        return Seen(**{name: value.to(device) for name, value in found.items()})


KINDS = tuple(Seen.__dataclass_fields__)
"""What a criterion can ask for."""
OF_MOMENTS = frozenset({"magnitudes", "means", "variances"})
OF_GRADIENTS = frozenset({"gradients", "gradient_norms"})
NOTHING = Seen()


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """How the weights of a layer are scored."""

    score: Callable[[torch.Tensor, Seen], torch.Tensor]
    """(weight [outputs, inputs], what was asked for, broadcast to it) -> score of the same shape.

    A row's scores depend on that row alone: large weights are scored some rows at a time. The square of a score is taken
    for what the weight is worth: squares are added up over blocks of weights, and for the reconstruction error.
    """
    needs: frozenset[str] = frozenset()
    """Which fields of `Seen` it asks for; each costs time, the gradients also memory."""
    seed: int | None = None
    """Of a criterion that asks for what is drawn."""
    reconstructs: bool = False
    """What stays of a weight changes too, which takes the Hessian of its inputs: `tasks.masks.reconstruct` does it all."""

    def __post_init__(self) -> None:
        if strange := sorted(self.needs - set(KINDS)):
            raise ValueError(f"a criterion cannot ask for {', '.join(strange)}; there are {', '.join(KINDS)}")

    @property
    def needs_data(self) -> bool:
        """Whether it looks at more than the weights and the seed, so that calibration data is read."""
        return self.reconstructs or bool(self.needs - {"drawn"})

    @property
    def needs_loss(self) -> bool:
        """Whether the calibration data has to say what is right."""
        return bool(self.needs & OF_GRADIENTS)


def magnitude(weight: torch.Tensor, seen: Seen = NOTHING) -> torch.Tensor:
    """|W|, in the weight's own dtype, where it is exact."""
    return weight.abs()


def wanda(weight: torch.Tensor, seen: Seen) -> torch.Tensor:
    """|W_ij| * ||X_j||_2 in float32 (Sun et al., arXiv 2306.11695, equation 1)."""
    return weight.float().abs().mul_(_asked(seen.norms, "norms"))


def activation(weight: torch.Tensor, seen: Seen) -> torch.Tensor:
    """|W_ij| * mean |X_j| in float32: how much the weight adds to its output or takes from it, on average."""
    return weight.float().abs().mul_(_asked(seen.magnitudes, "magnitudes"))


def variance(weight: torch.Tensor, seen: Seen) -> torch.Tensor:
    """|W_ij| * standard deviation of X_j in float32; the square is what the output loses beyond a constant.

    FLAP (An et al., arXiv 2312.11983) scores so and adds the constant to the bias; here the biases stay as they are.
    """
    return weight.float().abs().mul_(_asked(seen.variances, "variances").sqrt())


def taylor(weight: torch.Tensor, seen: Seen) -> torch.Tensor:
    """|W_ij * dL/dW_ij| in float32, L the loss summed over all examples: the first-order change of L without the weight.

    Its square is equation 8 of Molchanov et al., arXiv 1906.10771, with one batch that is all of the calibration data;
    SNIP (1810.02340) ranks by the same number.
    """
    return weight.float().mul(_asked(seen.gradients, "gradients")).abs_()


def fisher(weight: torch.Tensor, seen: Seen) -> torch.Tensor:
    """|W_ij| * sqrt(F_ij / 2) in float32, F_ij the sum over examples n of (dL_n/dW_ij)^2.

    The square is what optimal brain damage (LeCun et al., 1989) predicts the loss to gain, with the empirical Fisher
    information for the diagonal of its Hessian.
    """
    return weight.float().abs().mul_(_asked(seen.gradient_norms, "gradient_norms") * 0.5**0.5)


def chance(weight: torch.Tensor, seen: Seen) -> torch.Tensor:
    """What was drawn, whatever the weight: what every other criterion should be better than."""
    return _asked(seen.drawn, "drawn")


def _asked(found: torch.Tensor | None, name: str) -> torch.Tensor:
    if found is None:
        raise ValueError(f"the criterion needs {name}: its needs have to say so")
    return found


def _only_in_a_sweep(weight: torch.Tensor, seen: Seen) -> torch.Tensor:
    raise ValueError("sparsegpt scores weights while it changes them: see tasks.masks.reconstruct")


CRITERIA: Mapping[str, Criterion] = {
    "magnitude": Criterion(score=magnitude),
    "wanda": Criterion(score=wanda, needs=frozenset({"norms"})),
    "activation": Criterion(score=activation, needs=frozenset({"magnitudes"})),
    "variance": Criterion(score=variance, needs=frozenset({"variances"})),
    "taylor": Criterion(score=taylor, needs=frozenset({"gradients"})),
    "fisher": Criterion(score=fisher, needs=frozenset({"gradient_norms"})),
    "random": Criterion(score=chance, needs=frozenset({"drawn"}), seed=0),
    "sparsegpt": Criterion(score=_only_in_a_sweep, reconstructs=True),
}


def criterion_named(name: str, seed: int = 0) -> Criterion:
    """Ours, or one that an installed package offers under the entry point group `prunefleet.criteria`.

    Only a criterion that draws heeds the seed.
    """
    if name in CRITERIA:
        found = CRITERIA[name]
        return found if found.seed is None else replace(found, seed=seed)
    if own := offered(ENTRY_POINTS, name, Criterion, "a criterion"):
        return own if "drawn" not in own.needs else replace(own, seed=seed)
    known = ", ".join(sorted({*CRITERIA, *names_offered(ENTRY_POINTS)}))
    raise BadInput("a criterion cannot be used", why=f"{name!r} is unknown", do=f"Use one of: {known}.")


def layer_score(
    criterion: Criterion, layer: Layer, weight: torch.Tensor, seen: Seen, rows: slice = slice(None)
) -> torch.Tensor:
    """The score of some of a layer's rows, [rows, inputs / groups]; `seen` is of the whole layer."""
    part = rows_of(layer, weight)[rows]
    here = seen.rows(rows).to(weight.device)
    if criterion.seed is not None:
        here = replace(here, drawn=drawn_for(layer, criterion.seed, rows).to(weight.device))
    return criterion.score(part, here)


def drawn_for(layer: Layer, seed: int, rows: slice = slice(None)) -> torch.Tensor:
    """Float32 numbers for some of a layer's rows; a row's depend on the seed, the layer's name and its own number."""
    key = int.from_bytes(blake2b(f"{seed} {layer.name}".encode(), digest_size=16).digest(), "little")
    numbers = range(layer.outputs)[rows]
    found = np.empty((len(numbers), layer.inputs // layer.groups), dtype=np.float32)
    for row, number in zip(found, numbers, strict=True):
        np.random.Generator(np.random.Philox(key=key, counter=[0, 0, number, 0])).random(
            dtype=np.float32, out=row
        )
    return torch.from_numpy(found)


def norms_by_row(layer: Layer, squares: torch.Tensor) -> torch.Tensor:
    """Float32 L2 norms of the inputs that each row sees: [1, inputs], or [outputs, inputs / groups] if grouped."""
    return by_row(layer, squares.double().sqrt())


def by_row(layer: Layer, values: torch.Tensor) -> torch.Tensor:
    """One number an input -> float32, for the inputs that each row sees: [1, inputs], or [outputs, inputs / groups]."""
    if values.shape != (layer.inputs,):
        raise ValueError(f"{layer.name} has {layer.inputs} inputs and {list(values.shape)} numbers")
    found = values.float().reshape(layer.groups, -1)
    return found if layer.groups == 1 else found.repeat_interleave(layer.outputs // layer.groups, dim=0)
