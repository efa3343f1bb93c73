"""Pure. The prune step of a recipe, as the user writes it: score, pattern or cut, how much, and what is done about the loss."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from orchestrator.offered import OWN_CRITERIA, known_criterion
from orchestrator.specs.parts import Fraction, Part, Positive, with_defaults


class BudgetSpec(Part):
    """How much of the dense model may remain, embeddings and all included: one of these, as a share from 0 to 1."""

    parameters: Fraction | None = None
    """Parameters that are not zero; of a cut, all that the smaller model has."""
    flops: Fraction | None = None
    """Effective ones: multiply-adds with nonzero weights. A dense runtime does them all, and only those of a smaller model less."""
    bytes: Fraction | None = None
    """Of the tensors, each that is pruned as a bit mask and its nonzero values, all others, and those of a cut, as they are."""
    latency: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Of the time of a pass, with `cut`, whose shares are then the most that may go: as little of them as it takes goes. Timed
    beside the dense model as `evaluate.latency` says, or by its defaults. Masks make no runtime faster: refused for them."""

    @model_validator(mode="after")
    def _one(self) -> BudgetSpec:
        given = [name for name, share in self.model_dump().items() if share is not None]
        if len(given) != 1:
            raise ValueError("a budget names exactly one of parameters, flops, bytes, latency")
        return self


class QualitySpec(Part):
    """As much sparsity as a loss allows, by what was measured of each layer; what it really costs is measured after."""

    max_increase: Annotated[float, Field(gt=0.0)]
    """Of the loss on the calibration data, relative to the dense one; losses of layers are taken to add up."""


class DistillSpec(Part):
    """Let the pruned model learn to answer as the dense one does, its zeros held, by AdamW on the calibration data."""

    steps: Annotated[int, Field(gt=0, le=100_000)] = 100
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-4
    temperature: Annotated[float, Field(gt=0.0, le=100.0)] = 1.0


class RecoverSpec(Part):
    """Win back what pruning cost. A fifth of the calibration data is held out; a step that does not lower its loss is undone."""

    bias: bool = False
    """Biases make up for what removed weights, or units that were cut out, gave on average."""
    batch_norm: bool = False
    """Running means and variances are estimated again, over all calibration examples."""
    distill: Annotated[DistillSpec | None, BeforeValidator(with_defaults)] = None
    """`true`, or how; the default is not to."""

    @model_validator(mode="after")
    def _something(self) -> RecoverSpec:
        if not (self.bias or self.batch_norm or self.distill):
            raise ValueError("recover names none of bias, batch_norm, distill")
        return self


class CutSpec(Part):
    """Whole units to take out, each as a share of all there are; what is left is a smaller dense model."""

    width: Fraction | None = None
    """Hidden neurons of the feed-forward parts."""
    heads: Fraction | None = None
    """Attention heads; those that share keys and values go together."""
    experts: Fraction | None = None
    """Of mixtures, with their rows of the router."""
    channels: Fraction | None = None
    """Of convolutional networks, through all residual connections."""
    depth: Fraction | None = None
    """Whole blocks."""

    @model_validator(mode="after")
    def _some(self) -> CutSpec:
        if not self.shares:
            raise ValueError("cut names none of width, heads, experts, channels, depth")
        return self

    @property
    def shares(self) -> dict[str, float]:
        """Kind of unit -> share, those that are given."""
        return {kind: share for kind, share in self.model_dump().items() if share is not None}


class PruneSpec(Part):
    """What to remove: by which score, in which pattern, how much, and how it is spread over the layers."""

    criterion: Annotated[str, AfterValidator(known_criterion), Field(examples=[*OWN_CRITERIA])]
    """Weights alone: `magnitude`. Weights and their inputs: `wanda`, `activation`, `variance`. Weights and gradients of the
    loss: `taylor`, `fisher`. `sparsegpt` also changes the weights that stay, so that they make up for those that go; `random` is a baseline, drawn
    by the recipe's seed. `loss`, for cuts, measures the loss without each unit, one after the other.
    Any other name is that of an entry point of `prunefleet.criteria`; it is given calibration data."""
    cut: CutSpec | None = None
    """In place of a pattern and an amount: take out whole units, so that the model becomes smaller and not sparse."""
    round_to: Positive = 1
    """With `cut`: widths and channels that stay are a multiple of this, as hardware likes it."""
    pattern: Annotated[
        str,
        StringConstraints(
            pattern=r"^(unstructured|[1-9][0-9]?:[1-9][0-9]?|block:[1-9][0-9]{0,3}x[1-9][0-9]{0,3})$"
        ),
    ] = "unstructured"
    """`unstructured`, or N:M (N of each M consecutive inputs stay), such as 2:4, or block:RxC (whole blocks of
    R outputs by C inputs go), such as block:4x4."""
    amount: Fraction | None = None
    """The share of the prunable weights to remove; N:M implies it."""
    budget: BudgetSpec | None = None
    """In place of `amount`, for allocation sensitivity or knapsack: how much of the dense model may remain. With `cut`, whose
    shares are then the most that may go, for any allocation that it has."""
    quality: QualitySpec | None = None
    """In place of `amount`, for allocation sensitivity or knapsack: how much loss it may cost. With `cut` for sensitivity."""
    scope: Literal["tensor", "row", "model"] | None = None
    """Within what scores compete; the default is `row` for wanda, activation and variance, else `tensor`; sparsegpt: within blocks of 128
    columns. `model` ranks the weights of all layers together, which is its allocation."""
    allocation: Literal["uniform", "sensitivity", "knapsack", "erk", "owl"] = "uniform"
    """`sensitivity` interpolates between measured amounts, `knapsack` chooses the best combination of them; `erk` keeps most
    of small layers, `owl` of blocks with outliers, and both meet `amount` exactly. With `cut`, `sensitivity` weighs the kinds of
    units against each other, for a budget or a quality; the default makes all their shares smaller alike."""
    max_amount: Fraction = 0.95
    """No layer is pruned beyond this by an allocation that is not uniform, or with scope `model`."""
    min_amount: Fraction = 0.0
    """Nor less than this. With `knapsack` each layer needs a measured amount from here to `max_amount`."""
    min_tokens: Positive = 1
    """Layers, such as experts, that fewer calibration tokens reach are left alone, by name."""
    skip: tuple[str, ...] = ()
    """Shell-style patterns of layers to leave alone; each must match something."""
    recover: RecoverSpec | None = None
    """What is done about the loss afterwards, on the calibration data; the default is nothing."""
    verify: Literal["reload", "process"] | None = None
    """Load the artifact again and run one example: in the worker, or in a clean process that may reach nothing and unpickle
    nothing. By default it is recounted and its config checked against its weights, and the evaluation runs it."""
    dataset: str | None = None
    """Calibration data; the default is that of `sensitivity`."""
    split: str | None = None
    samples: Positive | None = None

    @model_validator(mode="after")
    def _fits(self) -> PruneSpec:
        if self.cut is not None:
            return self._cuts(self.cut)
        if self.criterion == "loss":
            raise ValueError("criterion: loss needs cut: it measures what a whole unit is worth")
        if self.has_latency_budget:
            raise ValueError(
                "masks make no runtime faster, so there is no budget of latency for them; use cut, or a budget of "
                "parameters, flops or bytes"
            )
        if self.round_to != 1:
            raise ValueError("round_to needs cut: masks change no size")
        if self.is_n_of_m:
            kept, group = map(int, self.pattern.split(":"))
            if kept >= group:
                raise ValueError(f"pattern {self.pattern} removes nothing: N must be less than M")
            implied = 1 - kept / group
            if self.amount is not None and abs(self.amount - implied) > 1e-9:
                raise ValueError(
                    f"pattern {self.pattern} removes exactly {implied:g}; leave amount out or set it so"
                )
            if self.allocation != "uniform":
                raise ValueError(
                    f"pattern {self.pattern} removes the same share everywhere; allocation must be uniform"
                )
            if self.scope is not None:
                raise ValueError(f"pattern {self.pattern} has its own scope; leave scope out")
        elif self.scope == "model":
            self._check_ranking()
        elif self.pattern != "unstructured":
            self._check_blocks()
        if self.min_amount and self.is_even:
            raise ValueError("min_amount is for scope: model, and every allocation but uniform")
        if self.min_amount > self.max_amount:
            raise ValueError(f"min_amount {self.min_amount:g} is above max_amount {self.max_amount:g}")
        if not self.is_n_of_m and self.amount is None and self.budget is None and self.quality is None:
            raise ValueError("amount is missing: the share of the weights to remove, from 0 to 1")
        if (self.amount is not None and (self.budget or self.quality)) or (self.budget and self.quality):
            raise ValueError("amount, budget and quality each say how much goes; give one of them")
        if (self.budget or self.quality) and not self.is_measured:
            raise ValueError("budget and quality need allocation: sensitivity or knapsack")
        return self

    def _cuts(self, cut: CutSpec) -> PruneSpec:
        masks = (*("pattern", "amount", "scope", "max_amount", "min_amount", "min_tokens", "skip"),)
        given = [name for name in masks if getattr(self, name) != type(self).model_fields[name].default]
        if given:
            raise ValueError(f"{given[0]} is about masks, and does not go with cut")
        if self.allocation not in ("uniform", "sensitivity"):
            raise ValueError(
                f"allocation: {self.allocation} is about masks; with cut it is sensitivity, or left out"
            )
        if self.budget and self.quality:
            raise ValueError("budget and quality each say how much goes; give one of them")
        if self.quality and not self.is_measured:
            raise ValueError("quality needs allocation: sensitivity")
        if self.is_measured and self.has_latency_budget:
            raise ValueError(
                "a budget of latency makes all shares of cut smaller alike; leave allocation out"
            )
        if self.is_measured and not (self.budget or self.quality):
            raise ValueError(
                "with cut, allocation: sensitivity needs a budget or a quality that says how much goes"
            )
        if self.criterion == "sparsegpt":
            raise ValueError(
                "criterion: sparsegpt does not go with cut: it scores weights while it changes them"
            )
        return self

    @property
    def is_measured(self) -> bool:
        """Whether the allocation reads measured sensitivities."""
        return self.allocation in ("sensitivity", "knapsack")

    @property
    def has_latency_budget(self) -> bool:
        """Whether a measured latency says how much is cut."""
        return self.budget is not None and self.budget.latency is not None

    @property
    def extras(self) -> dict[str, Any]:
        """`budget`, `quality`, `recover` and `verify` as params, where they are given."""
        named = {"budget": self.budget, "quality": self.quality, "recover": self.recover}
        found: dict[str, Any] = {
            name: part.model_dump(exclude_none=True) for name, part in named.items() if part
        }
        return found | ({"verify": self.verify} if self.verify else {})

    def _check_ranking(self) -> None:
        if self.allocation != "uniform":
            raise ValueError("scope: model decides how much of each layer goes; leave allocation out")
        if self.pattern != "unstructured":
            raise ValueError(f"scope: model ranks single weights, not pattern {self.pattern}")
        if self.criterion == "sparsegpt":
            raise ValueError("sparsegpt scores weights as it goes, so scope cannot be model")

    def _check_blocks(self) -> None:
        if self.pattern == "block:1x1":
            raise ValueError("block:1x1 is what unstructured says")
        if self.criterion == "sparsegpt":
            raise ValueError("sparsegpt prunes unstructured or N:M, not in blocks")
        if self.allocation == "knapsack" or self.budget or self.quality:
            raise ValueError("blocks go by amount, and their allocation cannot be knapsack")

    @property
    def is_n_of_m(self) -> bool:
        """Whether the pattern is N:M, which implies the amount."""
        return self.pattern[0].isdigit()

    @property
    def is_even(self) -> bool:
        """Whether every layer loses the same share."""
        return self.allocation == "uniform" and self.scope != "model"

    @property
    def needs_data(self) -> bool:
        """Whether scores or the allocation depend on calibration data, and not on the weights alone."""
        scores = self.criterion not in ("magnitude", "random") or self.allocation in ("owl", "knapsack")
        is_counted = self.budget and self.cut and not (self.is_measured or self.has_latency_budget)
        return scores or bool((self.budget and not is_counted) or self.quality or self.recover)

    @property
    def share(self) -> float | None:
        """The share of the prunable weights to remove; None where a budget or a quality decides."""
        if self.is_n_of_m:
            kept, group = map(int, self.pattern.split(":"))
            return 1 - kept / group
        return self.amount
