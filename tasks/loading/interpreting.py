"""Pure. Runs a checked program of torch.export step by step, as a module whose layers can be watched and pruned.

torch.export.load is not used: it unpickles examples and evaluates sizes and guards as Python.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import nn

from tasks.contract import raise_if_of_machine
from tasks.files.archives import PROGRAM, refuse
from tasks.files.program import Coded, Program, Ref, Step, Tensor, names_in, refs
from tasks.loading.operators import functional, is_view, only_checks, operator_named

DTYPES: Mapping[int, torch.dtype] = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32,
    8: torch.float64, 12: torch.bool, 13: torch.bfloat16, 28: torch.uint16, 34: torch.uint32, 35: torch.uint64,
}  # fmt: skip
"""By torch.export's numbers."""
_FORMATS: Mapping[int, torch.memory_format] = {
    1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d, 4: torch.preserve_format,
}  # fmt: skip
_STRIDED = 7
_LINEAR, _EMBEDDING = "torch.ops.aten.linear.default", "torch.ops.aten.embedding.default"
_CONVOLUTIONS: Mapping[str, type[nn.Conv1d] | type[nn.Conv2d]] = {
    f"torch.ops.aten.conv{rank}d.{overload}": kind
    for rank, kind in ((1, nn.Conv1d), (2, nn.Conv2d))
    for overload in ("default", "padding")
}
_NORM = "torch.ops.aten.batch_norm.default"
_RANDOM: Mapping[str, str] = {
    "torch.ops.aten.dropout.default": "train",
    "torch.ops.aten.scaled_dot_product_attention.default": "dropout_p",
    _NORM: "training",
}
"""Operator -> the argument that makes it behave as in training."""

Call = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    """A step that can be carried out: the values that it makes, and those that nobody needs after it."""

    target: str
    call: Call
    results: tuple[Any, ...]
    done_with: tuple[str, ...]


class ExportedProgram(nn.Module):
    """A program's weights under their own names, in linear, convolution, embedding and norm layers where it has such.

    Errors: BadInput, for an operator that programs may not call, or one that behaves as in training; for a program without
    parameters, and for one that reads a single number.
    """

    def __init__(
        self, program: Program, weights: Mapping[str, tuple[str, tuple[int, ...], torch.dtype, bool]]
    ):
        """`weights`: stored name -> (the name of the weight that it is, shape, dtype, whether it is a parameter)."""
        super().__init__()
        _check_kind(program, [is_parameter for *_, is_parameter in weights.values()])
        self._program = program
        self._stored = {name: first for name, (first, *_) in weights.items()}
        self._names: dict[str, list[str]] = defaultdict(list)
        for name, first in self._stored.items():
            self._names[first].append(name)
        self._embedding: str | None = None
        self._head: str | None = None
        self._steps: tuple[_Ready, ...] = ()
        self._batch = next(iter(program.inputs.values())).sizes[0]
        if (sides := image_size(program)) is not None:
            self.image_size = sides
        tensors: dict[
            str, torch.Tensor
        ] = {}  # only now, since a weight may have the name of none of the above
        for name, (first, shape, dtype, is_parameter) in weights.items():
            if first not in tensors:
                empty = torch.empty(shape, dtype=dtype)
                tensors[first] = nn.Parameter(empty, requires_grad=False) if is_parameter else empty
            _register(self, name, tensors[first])
        self._steps = self._prepared()

    def get_input_embeddings(self) -> nn.Module:
        """The table in which tokens are looked up."""
        if self._embedding is None:
            refuse(
                PROGRAM,
                "it reads whole numbers and looks nothing up in a table, so what they mean is not known",
            )
        return self.get_submodule(self._embedding)

    def get_output_embeddings(self) -> nn.Module | None:
        """The layer whose result is the answer, of a program that answers with tokens."""
        answer = self._program.values.get(self._program.answer)
        is_language_model = self._embedding is not None and answer is not None and len(answer.sizes) == 3
        return self.get_submodule(self._head) if is_language_model and self._head else None

    def forward(self, *values: torch.Tensor, **named: Any) -> torch.Tensor:
        """What the program answers; inputs by name, or the only one under any name.

        A program exported for batches of one answers one example after the other.
        """
        given = self._given([*values, *named.values()] if values else named)
        members = len(given[0])
        if self._batch == members or isinstance(self._batch, str):
            return self._run(given)
        if self._batch != 1:
            why = f"it was exported for batches of {self._batch} examples, and {members} are given"
            refuse(PROGRAM, why, do="Export it with a batch that may vary: dynamic_shapes={0: Dim('batch')}.")
        parts = [self._run([value[place : place + 1] for value in given]) for place in range(members)]
        return torch.cat(parts)

    def _given(self, values: Mapping[str, Any] | Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The inputs in the program's order and dtypes; a mask that is not given is one of ones."""
        wanted = self._program.inputs
        if not isinstance(values, Mapping):
            values = dict(zip(wanted, values, strict=True))
        tensors = {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}
        if len(wanted) == 1:
            first = next(iter(tensors.values()))
            tensors = {next(iter(wanted)): first}
        elif "input_ids" in tensors:
            tensors.setdefault("attention_mask", torch.ones_like(tensors["input_ids"]))
        return [tensors[name].to(DTYPES[tensor.dtype]) for name, tensor in wanted.items()]

    def _run(self, given: Sequence[torch.Tensor]) -> torch.Tensor:
        values: dict[str, Any] = dict(zip(self._program.inputs, given, strict=True))
        for step in self._steps:
            try:
                _keep(step.results, step.call(values), values)
            except (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError) as error:
                raise_if_of_machine(error)
                why = f"its step {step.target} fails: {' '.join(str(error).split())[:300]}"
                refuse(PROGRAM, why, do="Give it data of the sizes that it was exported for.")
            for name in step.done_with:
                values.pop(name, None)
        answer = self._value(Ref(self._program.answer), values)
        if not isinstance(answer, torch.Tensor):
            refuse(PROGRAM, f"its answer is a {type(answer).__name__}, and no tensor")
        return answer

    def _prepared(self) -> tuple[_Ready, ...]:
        steps = [step for step in self._program.steps if step.results or not only_checks(step.target)]
        read = [set(refs(list(step.arguments.values()))) for step in steps]
        users = Counter(name for names in read for name in names)
        makers = {name: step for step in steps for name in step.results if isinstance(name, str)}
        needed = {self._program.answer}
        done_with: list[tuple[str, ...]] = []
        for step, names in zip(reversed(steps), reversed(read), strict=True):
            done_with.append(tuple({*names, *names_in(step.results)} - needed))
            needed |= names
        return tuple(
            _Ready(
                target=step.target, call=self._call(step, users, makers), results=step.results, done_with=done
            )
            for step, done in zip(steps, reversed(done_with), strict=True)
        )

    def _call(self, step: Step, users: Mapping[str, int], makers: Mapping[str, Step]) -> Call:
        if step.arguments.get(_RANDOM.get(step.target, "")):
            refuse(
                PROGRAM, f"{step.target} behaves as in training", do="Call module.eval() before the export."
            )
        target = functional(step.target)
        if target != step.target:
            self._check_nobody_sees(step, users, makers)
        found = operator_named(target)
        if found is None:
            why = f"it calls {step.target[:120]}, which is none of the operators that programs may call here"
            refuse(
                PROGRAM,
                why,
                do="Export it with plain operators (program.run_decompositions()), or without this one.",
            )
        layer = self._layer(step)
        if layer is not None:
            given = step.arguments.get("indices" if step.target == _EMBEDDING else "input")
            if not isinstance(given, Ref):
                _no_tensor(step)
            return lambda values: layer(self._value(given, values))
        arguments = step.arguments
        if isinstance(found, torch._ops.OpOverload):
            return lambda values: found(
                **{name: self._value(item, values) for name, item in arguments.items()}
            )
        return lambda values: found(*(self._value(item, values) for item in arguments.values()))

    def _value(self, item: Any, values: Mapping[str, Any]) -> Any:
        match item:
            case Ref(name):
                return values[name] if name in values else _tensor_in(self, self._program.weights[name])
            case list():
                return [self._value(part, values) for part in item]
            case Coded(kind, number):
                return self._decoded(kind, number)
        return item

    def _decoded(self, kind: str, number: int) -> Any:
        match kind:
            case "dtype" if number in DTYPES:
                return DTYPES[number]
            case "memory_format" if number in _FORMATS:
                return _FORMATS[number]
            case "layout" if number == _STRIDED:
                return torch.strided
            case "device":
                return next(self.parameters()).device  # where the weights are now, wherever it was exported
        raise ValueError(f"there is no {kind} {number} here")

    def _check_nobody_sees(self, step: Step, users: Mapping[str, int], makers: Mapping[str, Step]) -> None:
        """An operator that works in place may be replaced where its input is used by nothing else, and is no view."""
        changed = next(iter(step.arguments.values()))
        name = changed.name if isinstance(changed, Ref) else ""
        maker = makers.get(name)
        if users.get(name) != 1 or maker is None or is_view(maker.target) or name == self._program.answer:
            why = f"{step.target} changes {name[:80]!r}, which other steps see too"
            refuse(PROGRAM, why, do="Export it without changes in place: program.run_decompositions().")

    def _layer(self, step: Step) -> nn.Module | None:
        """The module that computes a step, put where its weights are; None if an operator does."""
        weight = step.arguments.get("weight")
        if not isinstance(weight, Ref) or weight.name not in self._program.weights:
            return None
        names = self._names[self._stored[self._program.weights[weight.name]]]
        made = None
        place = names[0].rpartition(".")[0]
        for name in names:
            if (made := self._made(step, name)) is not None:
                place = name.rpartition(".")[0]
                break
        if step.target == _EMBEDDING and self._embedding is None:
            self._embedding = place
        if step.results == (self._program.answer,):
            self._head = place
        return made

    def _made(self, step: Step, name: str) -> nn.Module | None:
        path, _, leaf = name.rpartition(".")
        owner = self.get_submodule(path)
        others = {
            key: self._program.weights.get(item.name)
            for key, item in step.arguments.items()
            if isinstance(item, Ref)
        }
        meant = {
            key: f"{path}.{key}"
            for key in ("bias", "running_mean", "running_var")
            if isinstance(step.arguments.get(key), Ref)
        }
        if not path or leaf != "weight" or any(others[key] != stored for key, stored in meant.items()):
            return None
        made = _layer_of(step, owner, self._program.values)
        if made is None:
            return None
        if type(owner) is not nn.Module:
            return owner if _same(owner, made) else None
        for kind in ("_parameters", "_buffers", "_modules"):
            getattr(made, kind).clear()
            getattr(made, kind).update(getattr(owner, kind))
        if not {"bias"} & {*made._parameters, *made._buffers}:
            made.register_parameter("bias", None)
        _put(self, path, made.eval())
        return made


def _check_kind(program: Program, are_parameters: Sequence[bool]) -> None:
    """Whether there is anything to prune, and examples can be given in batches."""
    if not any(are_parameters):
        refuse(PROGRAM, "it has no parameters, so nothing of it can be measured or pruned")
    if not all(tensor.sizes for tensor in program.inputs.values()):
        why = "it reads a single number, and models are given batches of examples"
        refuse(PROGRAM, why, do="Let it read tensors whose first size is the batch.")


def image_size(program: Program) -> tuple[int, int] | None:
    """Height and width of the pictures that a program reads, if they are fixed."""
    sizes = next(iter(program.inputs.values())).sizes
    match sizes:
        case (_, _, int(height), int(width)):
            return (height, width)
    return None


def _layer_of(step: Step, owner: nn.Module, values: Mapping[str, Tensor]) -> nn.Module | None:
    """An empty layer of the kind and settings of a step; None where there is none, or its settings make no layer."""
    weight = owner._parameters.get("weight")
    if weight is None:
        return None
    try:
        with torch.device("meta"):
            if step.target == _LINEAR:
                outputs, inputs = weight.shape
                return nn.Linear(inputs, outputs)
            if step.target == _EMBEDDING and step.arguments.keys() <= {"weight", "indices", "padding_idx"}:
                return nn.Embedding(*weight.shape)
            if step.target in _CONVOLUTIONS:
                return _convolution(step, weight)
            if step.target == _NORM and isinstance(step.arguments.get("running_mean"), Ref):
                return _norm(step, weight, values)
    except (RuntimeError, ValueError, TypeError, ArithmeticError):
        return None  # the operator itself will say what is wrong, should it ever run
    return None


def _convolution(step: Step, weight: torch.Tensor) -> nn.Module:
    names = ("stride", "padding", "dilation", "groups")
    settings = {name: step.arguments[name] for name in names if name in step.arguments}
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    inputs = weight.shape[1] * plain.get("groups", 1)
    return _CONVOLUTIONS[step.target](inputs, weight.shape[0], tuple(weight.shape[2:]), **plain)  # type: ignore[arg-type]


def _norm(step: Step, weight: torch.Tensor, values: Mapping[str, Tensor]) -> nn.Module | None:
    source = step.arguments.get("input")
    rank = len(values[source.name].sizes) if isinstance(source, Ref) and source.name in values else 0
    kinds = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    if rank not in kinds:
        return None
    momentum, eps = step.arguments.get("momentum", 0.1), step.arguments.get("eps", 1e-5)
    made: nn.Module = kinds[rank](weight.shape[0], eps=eps, momentum=momentum)
    return made


def _same(one: nn.Module, other: nn.Module) -> bool:
    """Whether a layer that is used again is used in the same way."""
    return type(one) is type(other) and one.extra_repr() == other.extra_repr()


def _register(root: nn.Module, name: str, tensor: torch.Tensor) -> None:
    *path, leaf = name.split(".")
    owner = root
    for part in path:
        if part not in owner._modules:
            if not part or hasattr(owner, part):
                refuse(PROGRAM, "its name cannot be that of a weight", name)
            owner.add_module(part, nn.Module())
        owner = owner.get_submodule(part)
    if not leaf or hasattr(owner, leaf):
        refuse(PROGRAM, "its name cannot be that of a weight", name)
    if isinstance(tensor, nn.Parameter):
        owner.register_parameter(leaf, tensor)
    else:
        owner.register_buffer(leaf, tensor)


def _put(root: nn.Module, path: str, module: nn.Module) -> None:
    above, _, leaf = path.rpartition(".")
    root.get_submodule(above)._modules[leaf] = module


def _tensor_in(root: nn.Module, name: str) -> torch.Tensor:
    path, _, leaf = name.rpartition(".")
    tensor: torch.Tensor = getattr(root.get_submodule(path), leaf)
    return tensor


def _keep(results: Sequence[Any], made: Any, values: dict[str, Any]) -> None:
    """Gives names to what a step made."""
    if len(results) == 1 and not isinstance(results[0], list):
        values[results[0]] = made
        return
    parts = [made] if len(results) == 1 else made
    for names, part in zip(results, parts, strict=True):
        if isinstance(names, list):
            values.update(zip(names, part, strict=True))
        elif names is not None:
            values[names] = part


def _no_tensor(step: Step) -> NoReturn:
    refuse(PROGRAM, f"{step.target} is given no tensor")
