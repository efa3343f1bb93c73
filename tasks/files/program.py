"""Pure. What a program of torch.export says: its steps, inputs and weights, from JSON that nobody else has checked.

Standard library only. The schema is that of torch 2.9 and later (`torch/_export/serde/schema.py`, major version 8).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

from tasks.files.archives import refuse
from tasks.files.harmless import is_harmless

SCHEMA = 8
MAX_STEPS = 20_000
"""Strict JSON admits no more of those that torch writes, which take more than twelve objects each."""
MAX_NAME = 1000
"""Of a value; those inside a wrapped graph begin with a number in place of all names around them."""
_PLAIN_TREES = frozenset({None, "builtins.tuple", "builtins.list", "builtins.dict"})
"""Other kinds are made by code that is looked up by name."""
_ANSWER = "logits"
_COPY = "torch.ops.aten.alias.default"
_WRAPPERS: Mapping[str, int | None] = {
    "torch.ops.higher_order.wrap_with_set_grad_enabled": None,
    "torch.ops.higher_order.wrap_with_autocast": 2,
}
"""What runs a graph as it is, and which of its settings must be false for that."""
_Named = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Ref:
    """A value that an earlier step made, or an input or weight."""

    name: str


@dataclass(frozen=True, slots=True)
class Coded:
    """A dtype, device, layout or memory format: the kind of it, and torch's number for it."""

    kind: str
    number: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One call of an operator."""

    target: str
    """Such as `torch.ops.aten.relu.default`."""
    arguments: Mapping[str, Any]
    """By the operator's own names, in order: Ref, Coded, None, numbers, texts, and lists of them."""
    results: tuple[Any, ...]
    """A name for each, or a list of names for one that is a list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """What is known of a value before anything runs."""

    dtype: int
    sizes: tuple[int | str, ...]
    """A text is a size that may vary: the symbol's name, or an expression."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A checked program: every name is made before it is used, and nothing but operators is called."""

    steps: tuple[Step, ...]
    inputs: Mapping[str, Tensor]
    """What the caller gives, in order."""
    weights: Mapping[str, str]
    """Name in the steps -> name of the stored tensor."""
    answer: str
    """The value that is the model's answer."""
    values: Mapping[str, Tensor]
    most: Mapping[str, int]
    """Symbol -> the largest size it may have, where there is one."""
    is_one_of_many: bool
    """Whether the program answers further values, which are not looked at."""


def read_program(document: Mapping[str, Any], file: str) -> Program:
    """The program in `models/model.json`, parsed. Errors: BadInput, with what is not understood or not allowed."""
    try:
        return _read(document, file)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, RecursionError) as error:
        refuse(file, f"its graph is not built as torch writes it: {type(error).__name__} {str(error)[:200]}")


def refs(value: Any) -> Iterator[str]:
    """The names of the values that an argument, or a list of them, refers to."""
    if isinstance(value, Ref):
        yield value.name
    elif isinstance(value, list):
        for item in value:
            yield from refs(item)


def _read(document: Mapping[str, Any], file: str) -> Program:
    if (major := document["schema_version"]["major"]) != SCHEMA:
        refuse(file, f"its schema has the version {str(major)[:20]}, and {SCHEMA} is known")
    for text in _evaluated(document):
        if not is_harmless(text):
            refuse(file, f"loading it would evaluate {text[:200]!r}, which is not plain arithmetic on sizes")
    module = document["graph_module"]
    for tree in _trees(module):
        if strange := _kinds(tree) - _PLAIN_TREES:
            why = f"it takes or answers {sorted(str(kind) for kind in strange)[0][:80]}"
            refuse(file, why, do="Let it take and answer tensors, in tuples, lists or dicts.")
    graph, signature = module["graph"], module["signature"]
    values = _values(graph)
    weights, inputs = _inputs(signature["input_specs"], values, file)
    scopes = count()
    made_of = (step for node in graph["nodes"] for step in _steps(node, str, values, scopes, file))
    steps = tuple(islice(made_of, MAX_STEPS + 1))
    if len(steps) > MAX_STEPS:
        refuse(file, f"it has more than {MAX_STEPS} steps")
    _check_order(steps, {*weights, *inputs}, file)
    answers = _answers(signature["output_specs"], file)
    made = {*weights, *inputs, *names_in([step.results for step in steps])}
    if not set(answers) <= made:
        refuse(file, "it answers a value that no step makes")
    ranges = document["range_constraints"]
    return Program(
        steps=steps,
        inputs=inputs,
        weights=weights,
        answer=answers[_place_of_answer(module, len(answers))],
        values=values,
        most={str(name): limit for name, span in ranges.items() if type(limit := span.get("max_val")) is int},
        is_one_of_many=len(answers) > 1,
    )


def _evaluated(value: Any) -> Iterator[str]:
    """Every text of the document that torch's loader evaluates as Python."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key == "guards_code":
                yield from (str(text) for text in item)
            elif key == "expr_str" or (key == "as_expr" and isinstance(item, str)):
                yield str(item)
            else:
                yield from _evaluated(item)
    elif isinstance(value, list):
        for item in value:
            yield from _evaluated(item)


def _trees(module: Mapping[str, Any]) -> Iterator[Any]:
    """The shapes of what the program, and each module in it, takes and answers."""
    for call in module["module_call_graph"]:
        if call["signature"] is not None:
            for key in ("in_spec", "out_spec"):
                yield json.loads(call["signature"][key])[1]


def _kinds(tree: Mapping[str, Any]) -> set[str | None]:
    kinds = {tree["type"]}
    for child in tree["children_spec"]:
        kinds |= _kinds(child)
    return kinds


def _place_of_answer(module: Mapping[str, Any], count: int) -> int:
    """Which of the answers is the model's: the one called `logits`, else the first."""
    [whole] = [call for call in module["module_call_graph"] if call["fqn"] == ""]
    tree = json.loads(whole["signature"]["out_spec"])[1]
    is_flat = len(tree["children_spec"]) == count
    names = json.loads(tree["context"]) if tree["type"] == "builtins.dict" and is_flat else []
    return names.index(_ANSWER) if _ANSWER in names else 0


def _inputs(
    specs: Sequence[Mapping[str, Any]], values: Mapping[str, Tensor], file: str
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Name in the steps -> stored tensor; what the caller gives."""
    weights: dict[str, str] = {}
    inputs: dict[str, Tensor] = {}
    for spec in specs:
        match spec:
            case {"parameter": {"arg": {"name": str(name)}, "parameter_name": str(stored)}}:
                weights[name] = stored
            case {"buffer": {"arg": {"name": str(name)}, "buffer_name": str(stored)}}:
                weights[name] = stored
            case {"tensor_constant": {"arg": {"name": str(name)}, "tensor_constant_name": str(stored)}}:
                weights[name] = stored
            case {"user_input": {"arg": {"as_tensor": {"name": str(name)}}}}:
                inputs[name] = values[name]
            case {"constant_input": _} | {"user_input": {"arg": {"as_none": _}}}:
                continue  # was fixed when it was exported
            case _:
                refuse(file, f"it takes something else than tensors: {str(spec)[:200]}")
    if not inputs:
        refuse(file, "it takes no tensor")
    return weights, inputs


def _answers(specs: Sequence[Mapping[str, Any]], file: str) -> list[str]:
    found = []
    for spec in specs:
        match spec:
            case {"user_output": {"arg": {"as_tensor": {"name": str(name)}}}}:
                found.append(name)
            case {"user_output": _}:
                refuse(file, "it answers something else than tensors")
            case _:
                why = f"running it changes it ({', '.join(map(str, spec))[:80]})"
                refuse(file, why, do="Export it in eval mode: module.eval() first.")
    if not found:
        refuse(file, "it answers nothing")
    return found


def _tensor(meta: Mapping[str, Any]) -> Tensor:
    return Tensor(dtype=int(meta["dtype"]), sizes=tuple(_size(size) for size in meta["sizes"]))


def _size(size: Mapping[str, Any]) -> int | str:
    match size:
        case {"as_int": int(number)}:
            return number
        case {"as_expr": {"expr_str": str(text)}}:
            return text.partition("'")[2].partition("'")[0] if text.startswith("Symbol('") else text
    raise ValueError(f"a size is {str(size)[:80]}")


def _values(graph: Mapping[str, Any]) -> dict[str, Tensor]:
    return {str(name): _tensor(meta) for name, meta in graph["tensor_values"].items()}


def _steps(
    node: Mapping[str, Any], named: _Named, values: dict[str, Tensor], scopes: Iterator[int], file: str
) -> Iterator[Step]:
    """The step of a node; those of the graph in it, if it only wraps one. `named` gives the names that they have outside."""
    target = str(node["target"])
    arguments = [item["arg"] for item in node["inputs"]]
    places = [at for at, argument in enumerate(arguments) if "as_graph" in argument]
    if target not in _WRAPPERS:
        if places:
            why = f"{target} runs parts of it by what it computes, or more than once"
            refuse(
                file, why, do="Export the module without control flow, such as torch.cond, map or while_loop."
            )
        yield _step(node, named)
        return
    [place] = places
    settings = [_value(argument, named) for argument in arguments[:place]]
    if (at := _WRAPPERS[target]) is not None and settings[at] is not False:
        refuse(file, f"{target} changes the dtypes in a part of it", do="Export it without autocast.")
    graph = arguments[place]["as_graph"]["graph"]
    names: dict[str, str] = {}
    for outside, inside in zip(arguments[place + 1 :], graph["inputs"], strict=True):
        names[inside["as_tensor"]["name"]] = named(outside["as_tensor"]["name"])
    passed = dict(names)
    copies = []
    for result, output in zip(node["outputs"], graph["outputs"], strict=True):
        name, outside = output["as_tensor"]["name"], _result(result, named)
        if name in names:
            copies.append(Step(target=_COPY, arguments={"self": Ref(names[name])}, results=(outside,)))
        else:
            names[name] = outside
    scope = next(scopes)

    def inner(name: str) -> str:
        return names.setdefault(name, f"{scope}/{name}")

    for name, value in _values(graph).items():
        if name not in passed:
            values[inner(name)] = value
    for inside in graph["nodes"]:
        yield from _steps(inside, inner, values, scopes, file)
    yield from copies


def _step(node: Mapping[str, Any], named: _Named) -> Step:
    arguments = {str(item["name"]): _value(item["arg"], named) for item in node["inputs"]}
    if len(arguments) != len(node["inputs"]):
        raise ValueError(f"{node['target']} is given an argument twice")
    return Step(
        target=str(node["target"]),
        arguments=arguments,
        results=tuple(_result(output, named) for output in node["outputs"]),
    )


def _value(argument: Mapping[str, Any], named: _Named) -> Any:
    match argument:
        case {"as_none": _}:
            return None
        case {"as_tensor": {"name": str(name)}}:
            return Ref(named(name))
        case {"as_tensors": list(items)}:
            return [Ref(named(str(item["name"]))) for item in items]
        case {"as_optional_tensors": list(items)}:
            return [
                None if "as_none" in item else Ref(named(str(item["as_tensor"]["name"]))) for item in items
            ]
        case {"as_sym_int": item} | {"as_sym_float": item} | {"as_sym_bool": item}:
            return _symbolic(item, named)
        case {"as_sym_ints": list(items)} | {"as_sym_floats": list(items)}:
            return [_symbolic(item, named) for item in items]
        case {"as_float": number}:
            return float(number)
        case {"as_floats": list(numbers)}:
            return [float(number) for number in numbers]
        case {"as_int": int(item)} | {"as_bool": bool(item)} | {"as_string": str(item)}:
            return item
        case {"as_ints": list(items)} | {"as_bools": list(items)} | {"as_strings": list(items)}:
            if all(isinstance(item, int | str) for item in items):
                return items
        case {"as_scalar_type": int(number)}:
            return Coded("dtype", number)
        case {"as_memory_format": int(number)}:
            return Coded("memory_format", number)
        case {"as_layout": int(number)}:
            return Coded("layout", number)
        case {"as_device": _}:
            return Coded("device")
    raise ValueError(f"a step is given {str(argument)[:120]}, which is no tensor, number or text")


def _symbolic(item: Mapping[str, Any], named: _Named) -> Any:
    match item:
        case {"as_name": str(name)}:
            return Ref(named(name))
        case {"as_int": int(number)} | {"as_bool": bool(number)}:
            return number
        case {"as_float": number}:
            return float(number)
    raise ValueError(f"a number is {str(item)[:80]}")


def _result(output: Mapping[str, Any], named: _Named) -> Any:
    match output:
        case {"as_tensor": {"name": str(name)}}:
            return named(name)
        case {"as_tensors": list(items)}:
            return [named(str(item["name"])) for item in items]
        case {"as_sym_int": {"as_name": str(name)}} | {"as_sym_float": {"as_name": str(name)}}:
            return named(name)
        case {"as_sym_bool": {"as_name": str(name)}}:
            return named(name)
        case {"as_none": _}:
            return None
    raise ValueError(f"a result is {str(output)[:80]}")


def _check_order(steps: Sequence[Step], known: set[str], file: str) -> None:
    made = set(known)
    for step in steps:
        for name in refs(list(step.arguments.values())):
            if name not in made:
                refuse(file, f"{step.target} uses {name[:80]!r} before any step makes it")
        new = list(names_in([step.results]))
        if len(set(new)) < len(new) or made & set(new):
            refuse(file, f"{step.target} makes {new[0][:80]!r}, which is there already")
        if long := next((name for name in new if len(name) > MAX_NAME), None):
            refuse(file, f"the name {long[:80]!r}… has {len(long)} characters, more than {MAX_NAME}")
        made.update(new)


def names_in(results: Any) -> Iterator[str]:
    """The names that a step gives to what it makes."""
    if isinstance(results, str):
        yield results
    elif isinstance(results, list | tuple):
        for item in results:
            yield from names_in(item)
