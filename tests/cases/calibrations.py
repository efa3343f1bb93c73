"""What calibration sees of a model, from a data set as a recipe names it."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.contract import Dataset
from tasks.examples.data import read
from tasks.examples.fitting import fit
from tasks.loading.models import Layer, Model
from tasks.statistics.calibration import Statistics, input_norms_over


def input_norms(model: Model, layers: Sequence[Layer], dataset: Dataset) -> Statistics:
    return input_norms_over(model, layers, fit(read(dataset), model))
