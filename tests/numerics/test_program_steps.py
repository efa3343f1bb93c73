"""Programs written by hand that torch would hardly write: what runs, what is refused, and what is the machine's own fault."""

from __future__ import annotations

import pytest
import torch
from cases.graphs import RELU, chain, program, relu, step, tensor

from orchestrator.domain import FailureClass
from orchestrator.worker import classify
from tasks.contract import BadInput, is_of_memory
from tasks.files.program import MAX_STEPS, read_program
from tasks.loading import interpreting
from tasks.loading.interpreting import ExportedProgram

WEIGHT = {"layer.weight": ("layer.weight", (2, 2), torch.float32, True)}
SIZE = "torch.ops.aten.sym_size.int"
ZEROS = "torch.ops.aten.zeros.default"
POOL = "torch.ops.aten.adaptive_max_pool2d.default"


def number(name):
    return {"as_sym_int": {"as_name": name}}


def whole(value):
    return {"as_int": value}


def built(nodes, answer, sizes=(2, 2), weights=WEIGHT):
    return ExportedProgram(read_program(program(nodes, answer, sizes), "model.pt2"), weights)


def sizes_reckoned_with(target, *operands):
    """A program that makes the size 2, reckons with it, and answers something else."""
    arguments = {str(place): operand for place, operand in enumerate(operands)}
    nodes = [
        step(SIZE, [number("two")], self=tensor("x"), dim=whole(0)),
        step(target, [number("made")], **arguments),
        relu("x", "y"),
    ]
    return built(nodes, "y")


X = torch.tensor([[-1.0, 2.0], [3.0, -4.0]])


@pytest.mark.parametrize(
    ("target", "operands"),
    [
        ("_operator.mul", [{"as_string": "a"}, whole(10**11)]),
        ("_operator.mod", [{"as_string": "%1000000000d"}, whole(5)]),
        ("_operator.mul", [{"as_ints": [1]}, whole(10**11)]),
        ("_operator.mul", [number("two"), whole(2**62)]),
        ("_operator.neg", [whole(2**63)]),
        ("_operator.getitem", [{"as_string": "abc"}, whole(0)]),
        ("_operator.getitem", [{"as_ints": [1, 2]}, whole(2)]),
        ("math.floor", [{"as_float": "inf"}]),
        ("torch.sym_max", [{"as_string": "a"}, {"as_string": "b"}]),
    ],
)
def test_what_is_reckoned_with_sizes_stays_a_number_and_small(target, operands):
    with pytest.raises(BadInput, match=f"its step {target} fails"):
        sizes_reckoned_with(target, *operands)(X)


@pytest.mark.parametrize(
    ("target", "operands"),
    [
        ("_operator.mul", [number("two"), whole(2**61)]),
        ("_operator.getitem", [{"as_ints": [1, 2]}, whole(-1)]),
        ("_operator.truediv", [number("two"), {"as_float": 0.5}]),
        ("math.sqrt", [number("two")]),
        ("torch.sym_not", [{"as_bool": True}]),
    ],
)
def test_sizes_are_reckoned_with(target, operands):
    assert torch.equal(sizes_reckoned_with(target, *operands)(X), X.relu())


def test_sixty_squarings_of_a_size_end_early():
    squarings = [
        step("_operator.mul", [number(f"s{place + 1}")], a=number(f"s{place}"), b=number(f"s{place}"))
        for place in range(60)
    ]
    first = step(SIZE, [number("s0")], self=tensor("x"), dim=whole(0))
    with pytest.raises(BadInput, match="no size"):
        built([first, *squarings, relu("x", "y")], "y")(X)


def test_a_program_that_reads_a_single_number_is_refused():
    with pytest.raises(BadInput, match="reads a single number"):
        built([relu("x", "y")], "y", sizes=())


@pytest.mark.parametrize("weights", [{}, {"steps": ("steps", (2,), torch.float32, False)}])
def test_a_program_without_parameters_is_refused(weights):
    with pytest.raises(BadInput, match="no parameters"):
        built([relu("x", "y")], "y", weights=weights)


@pytest.mark.parametrize("name", ["_steps", "_names", "_embedding", "_batch", "forward", "_modules"])
def test_a_weight_named_as_something_of_ours_is_refused(name):
    with pytest.raises(BadInput, match="cannot be that of a weight"):
        built([relu("x", "y")], "y", weights={name: (name, (2, 2), torch.float32, True)})


@pytest.mark.parametrize(("answer", "kind"), [("two", "int"), ("parts", "tuple")])
def test_an_answer_that_is_no_tensor_is_refused(answer, kind):
    nodes = [
        step(SIZE, [number("two")], self=tensor("x"), dim=whole(0)),
        step("torch.ops.aten.std_mean.default", [tensor("parts")], self=tensor("x")),
    ]
    with pytest.raises(BadInput, match=f"its answer is a {kind}"):
        built(nodes, answer)(X)


def test_a_check_that_says_to_make_something_is_no_operator():
    check = step("torch.ops.aten._assert_async.msg", [tensor("y")], self=tensor("x"))
    with pytest.raises(BadInput, match="none of the operators"):
        built([check], "y")


def test_what_no_step_reads_is_let_go_at_once(monkeypatch):
    held = []
    keep = interpreting._keep

    def watched(results, made, values):
        keep(results, made, values)
        held.append(set(values))

    monkeypatch.setattr(interpreting, "_keep", watched)
    pooled = step(POOL, [tensor("most"), tensor("places")], self=tensor("x"), output_size={"as_ints": [1, 1]})
    check = step("torch.ops.aten._assert_tensor_metadata.default", [], a=tensor("most"))
    module = built([pooled, relu("most", "a"), relu("a", "b"), check], "b", sizes=(1, 2, 2))
    assert module(X[None]).item() == 3.0
    assert held == [{"x", "most", "places"}, {"most", "a"}, {"a", "b"}]


def test_as_many_steps_as_there_may_be_are_prepared_without_scanning_all_for_each(monkeypatch):
    looked = []
    refs = interpreting.refs
    monkeypatch.setattr(interpreting, "refs", lambda value: looked.append(1) or refs(value))
    nodes = [
        {**node, "target": "torch.ops.aten.relu_.default"} if place else node
        for place, node in enumerate(chain(MAX_STEPS // 10, "x"))
    ]
    built(nodes, f"v{len(nodes) - 1}")
    assert len(looked) == len(nodes)


def test_a_program_that_asks_for_more_memory_than_any_machine_has_fails_for_want_of_memory():
    nodes = [step(ZEROS, [tensor("huge")], size={"as_ints": [2**46]}), relu("x", "y")]
    with pytest.raises(RuntimeError) as caught:
        built(nodes, "y", sizes=(1, 2))(X)
    assert is_of_memory(caught.value)
    failure = classify(caught.value)
    assert failure.failure_class == FailureClass.MEMORY
    assert "can't allocate memory" in failure.error


def test_what_python_or_an_accelerator_lacks_is_no_fault_of_a_program(monkeypatch):
    class AcceleratorError(RuntimeError):
        pass

    for error in (
        torch.OutOfMemoryError("no room"),
        AcceleratorError("CUDA error: an illegal memory access"),
    ):
        module = built([relu("x", "y")], "y")

        def fail(values, error=error):
            raise error

        [ready] = module._steps
        module._steps = (interpreting._Ready(target=RELU, call=fail, results=ready.results, done_with=()),)
        with pytest.raises(type(error)):
            module(X)
