"""Programs of torch.export written by hand: the JSON of a graph, node by node."""

from __future__ import annotations

RELU = "torch.ops.aten.relu.default"
NO_GRAD = "torch.ops.higher_order.wrap_with_set_grad_enabled"


def tensor(name):
    return {"as_tensor": {"name": name}}


def step(target, results, **arguments):
    """A node that calls an operator; arguments and results as torch writes them."""
    inputs = [{"name": name, "arg": argument} for name, argument in arguments.items()]
    return {"target": target, "inputs": inputs, "outputs": list(results)}


def relu(source, result):
    return step(RELU, [tensor(result)], self=tensor(source))


def wrapped(source, result, nodes, last):
    """A node that runs `nodes`, which read `a` and make `last`, as they are."""
    graph = {"inputs": [tensor("a")], "outputs": [tensor(last)], "nodes": nodes, "tensor_values": {}}
    given = [{"as_bool": False}, {"as_graph": {"name": "g", "graph": graph}}, tensor(source)]
    inputs = [{"name": "", "arg": argument} for argument in given]
    return {"target": NO_GRAD, "inputs": inputs, "outputs": [tensor(result)]}


def program(nodes, answer, sizes=(2,)):
    """The document of a program that reads `x`, of these sizes."""
    leaf = '[1, {"type": null, "context": null, "children_spec": []}]'
    value = {"dtype": 7, "sizes": [{"as_int": size} for size in sizes]}
    signature = {
        "input_specs": [{"user_input": {"arg": tensor("x")}}],
        "output_specs": [{"user_output": {"arg": tensor(answer)}}],
    }
    return {
        "schema_version": {"major": 8},
        "graph_module": {
            "graph": {"nodes": nodes, "tensor_values": {"x": value}},
            "signature": signature,
            "module_call_graph": [{"fqn": "", "signature": {"in_spec": leaf, "out_spec": leaf}}],
        },
        "range_constraints": {},
    }


def chain(count, first="a"):
    """So many nodes, each of which reads what the one before it made."""
    return [relu(first if place == 0 else f"v{place - 1}", f"v{place}") for place in range(count)]
