"""Pure. The operators that a program of torch.export may call: functions of tensors that touch nothing else.

A program names its operators itself. Only those listed here are looked up; the list holds no operator that opens a file,
prints, draws random numbers, reads memory that nobody wrote, or changes what it is given.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch

_ATEN = "torch.ops.aten."
_TENSORS = frozenset(
    [
        "abs",
        "acos",
        "acosh",
        "adaptive_avg_pool1d",
        "adaptive_avg_pool2d",
        "adaptive_avg_pool3d",
        "adaptive_max_pool1d",
        "adaptive_max_pool2d",
        "_adaptive_avg_pool2d",
        "_adaptive_avg_pool3d",
        "add",
        "addcdiv",
        "addcmul",
        "addmm",
        "alias",
        "all",
        "amax",
        "amin",
        "any",
        "arange",
        "argmax",
        "argmin",
        "argsort",
        "asin",
        "asinh",
        "atan",
        "atan2",
        "atanh",
        "avg_pool1d",
        "avg_pool2d",
        "avg_pool3d",
        "baddbmm",
        "batch_norm",
        "bitwise_and",
        "bitwise_not",
        "bitwise_or",
        "bitwise_xor",
        "bmm",
        "broadcast_to",
        "broadcast_tensors",
        "bucketize",
        "cat",
        "ceil",
        "celu",
        "channel_shuffle",
        "chunk",
        "clamp",
        "clamp_max",
        "clamp_min",
        "clip",
        "clone",
        "concat",
        "constant_pad_nd",
        "contiguous",
        "conv1d",
        "conv2d",
        "conv3d",
        "conv_transpose1d",
        "conv_transpose2d",
        "convolution",
        "cos",
        "cosh",
        "cosine_similarity",
        "cumprod",
        "cumsum",
        "detach",
        "diag",
        "diagonal",
        "diff",
        "div",
        "dot",
        "dropout",
        "einsum",
        "elu",
        "embedding",
        "eq",
        "erf",
        "erfc",
        "exp",
        "exp2",
        "expand",
        "expand_as",
        "expm1",
        "eye",
        "fill",
        "flatten",
        "flip",
        "floor",
        "floor_divide",
        "fmax",
        "fmin",
        "fmod",
        "frac",
        "full",
        "full_like",
        "gather",
        "ge",
        "gelu",
        "glu",
        "greater",
        "greater_equal",
        "group_norm",
        "gt",
        "hardshrink",
        "hardsigmoid",
        "hardswish",
        "hardtanh",
        "index",
        "index_add",
        "index_put",
        "index_select",
        "instance_norm",
        "isfinite",
        "isinf",
        "isnan",
        "layer_norm",
        "le",
        "leaky_relu",
        "lerp",
        "less",
        "less_equal",
        "lift_fresh_copy",
        "linear",
        "linalg_norm",
        "linalg_vector_norm",
        "linspace",
        "log",
        "log10",
        "log1p",
        "log2",
        "log_sigmoid",
        "log_softmax",
        "_log_softmax",
        "logaddexp",
        "logical_and",
        "logical_not",
        "logical_or",
        "logical_xor",
        "logsumexp",
        "lt",
        "masked_fill",
        "masked_scatter",
        "matmul",
        "max",
        "max_pool1d",
        "max_pool2d",
        "max_pool2d_with_indices",
        "max_pool3d",
        "maximum",
        "mean",
        "min",
        "minimum",
        "mish",
        "mm",
        "movedim",
        "mse_loss",
        "mul",
        "multiply",
        "mv",
        "narrow",
        "native_group_norm",
        "native_layer_norm",
        "_native_batch_norm_legit_no_training",
        "ne",
        "neg",
        "new_full",
        "new_ones",
        "new_zeros",
        "nonzero",
        "norm",
        "not_equal",
        "numpy_T",
        "one_hot",
        "ones",
        "ones_like",
        "outer",
        "pad",
        "permute",
        "pixel_shuffle",
        "pixel_unshuffle",
        "positive",
        "pow",
        "prelu",
        "prod",
        "reciprocal",
        "reflection_pad1d",
        "reflection_pad2d",
        "relu",
        "relu6",
        "remainder",
        "repeat",
        "repeat_interleave",
        "replication_pad1d",
        "replication_pad2d",
        "reshape",
        "reshape_as",
        "rms_norm",
        "roll",
        "round",
        "rot90",
        "rsqrt",
        "rsub",
        "scalar_tensor",
        "scaled_dot_product_attention",
        "scatter",
        "scatter_add",
        "scatter_reduce",
        "select",
        "select_scatter",
        "selu",
        "sigmoid",
        "sign",
        "silu",
        "sin",
        "sinh",
        "slice",
        "slice_scatter",
        "softmax",
        "_softmax",
        "softplus",
        "softshrink",
        "sort",
        "split",
        "split_with_sizes",
        "sqrt",
        "square",
        "squeeze",
        "stack",
        "std",
        "std_mean",
        "sub",
        "subtract",
        "sum",
        "swapaxes",
        "swapdims",
        "t",
        "take",
        "take_along_dim",
        "tan",
        "tanh",
        "tensor_split",
        "threshold",
        "tile",
        "to",
        "_to_copy",
        "topk",
        "transpose",
        "tril",
        "triu",
        "true_divide",
        "trunc",
        "type_as",
        "unbind",
        "unflatten",
        "unfold",
        "unsqueeze",
        "upsample_bilinear2d",
        "upsample_nearest2d",
        "var",
        "var_mean",
        "vdot",
        "view",
        "view_as",
        "vstack",
        "where",
        "zeros",
        "zeros_like",
        "__and__",
        "__or__",
        "__xor__",
        "sym_size",
        "sym_numel",
    ]
)
_MOST = 2**63
"""Sizes are below it, and so is what programs reckon with them: a few squarings would fill all memory."""


def _of_sizes(call: Callable[..., Any]) -> Callable[..., Any]:
    def bounded(*values: Any) -> Any:
        if not all(isinstance(value, bool | int | float) for value in values):
            raise TypeError(
                f"it takes numbers, and is given {', '.join(type(value).__name__ for value in values)}"
            )
        made = call(*values)
        if isinstance(made, int) and abs(made) >= _MOST:
            raise OverflowError("it makes a number that is no size")
        return made

    return bounded


def _item(values: Any, place: Any) -> Any:
    if not isinstance(values, list | tuple) or type(place) is not int:
        raise TypeError(f"it takes a list and a place in it, and is given {type(values).__name__}")
    return values[place]


_PYTHON: Mapping[str, Callable[..., Any]] = {
    "_operator.getitem": _item,
    **{f"_operator.{name}": _of_sizes(getattr(operator, name)) for name in (
        "add", "and_", "eq", "floordiv", "ge", "gt", "le", "lt", "mod", "mul", "ne", "neg", "or_", "sub", "truediv",
    )},
    **{f"math.{name}": _of_sizes(getattr(math, name)) for name in ("ceil", "floor", "sqrt", "trunc")},
    **{f"torch.{name}": _of_sizes(getattr(torch, name)) for name in ("sym_float", "sym_int", "sym_max", "sym_min", "sym_not")},
}  # fmt: skip
"""Of sizes, which are Python's numbers."""
_VIEWS_BY_CHANCE = frozenset(
    f"aten::{name}" for name in ("broadcast_tensors", "dropout", "einsum", "pad", "reshape_as", "type_as")
)
"""Whose schema does not say it."""
_ONLY_CHECKS = frozenset(
    f"{_ATEN}{name}"
    for name in (
        "_assert_scalar.default",
        "_assert_async.msg",
        "_assert_tensor_metadata.default",
        "sym_constrain_range.default",
        "sym_constrain_range_for_size.default",
    )
)


def operator_named(target: str) -> Callable[..., Any] | None:
    """The function of that name, if programs may call it."""
    if target in _PYTHON:
        return _PYTHON[target]
    name, _, overload = target.removeprefix(_ATEN).partition(".")
    if not target.startswith(_ATEN) or name not in _TENSORS:
        return None
    packet = getattr(torch.ops.aten, name)
    if overload not in packet.overloads():
        return None
    found: torch._ops.OpOverload = getattr(packet, overload)
    return None if found._schema.is_mutable else found


def functional(target: str) -> str:
    """The operator that does the same as one that works in place (`relu_`), and leaves its input as it was."""
    name, _, overload = target.removeprefix(_ATEN).partition(".")
    return f"{_ATEN}{name[:-1]}.{overload}" if name.endswith("_") and not name.endswith("__") else target


def only_checks(target: str) -> bool:
    """Whether an operator computes nothing: it would stop a run whose sizes are not those of the export."""
    return target in _ONLY_CHECKS


def is_view(target: str) -> bool:
    """Whether the result of an operator may lie on the memory of what it is given."""
    found = operator_named(target)
    if not isinstance(found, torch._ops.OpOverload):
        return False
    says_so = any(result.alias_info is not None for result in found._schema.returns)
    return says_so or found._schema.name in _VIEWS_BY_CHANCE
