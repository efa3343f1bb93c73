"""Pure. Whether an expression that others will evaluate as Python can do nothing but arithmetic on sizes."""

from __future__ import annotations

import ast

MAX_CHARACTERS = 10_000
_NODES = (
    *(ast.Expression, ast.Compare, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Constant, ast.Load, ast.keyword),
    *(ast.And, ast.Or, ast.Not, ast.USub, ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Div, ast.Mod),
    *(ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE),
)
"""No power of any number: `9**9**9` is arithmetic and never ends."""
_FUNCTIONS = frozenset(
    [
        "Symbol",
        "Integer",
        "Add",
        "Mul",
        "Max",
        "Min",
        "Eq",
        "Ne",
        "Lt",
        "Le",
        "Gt",
        "Ge",
        "And",
        "Or",
        "Not",
        "Mod",
        "FloorDiv",
        "PythonMod",
        "CleanDiv",
        "CeilDiv",
        "CeilToInt",
        "FloorToInt",
        "TruncToInt",
        "RoundToInt",
        "ToFloat",
        "IntTrueDiv",
        "FloatTrueDiv",
        "ModularIndexing",
        "Where",
        "Identity",
    ]
)
"""Of sympy, and of those that torch adds to it."""
_EXPONENTS = frozenset({"Integer(2)", "Integer(3)", "Integer(-1)"})
_INPUTS = "L"
"""What guards call the inputs: `L['x'].size()[0]`."""


def is_harmless(expression: str) -> bool:
    """Whether an expression of sizes holds only numbers, symbols, comparisons and the functions of sizes."""
    if len(expression) > MAX_CHARACTERS:
        return False
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return _is_arithmetic(tree.body)


def _is_arithmetic(node: ast.AST) -> bool:
    match node:
        case ast.Constant(value=value):
            return isinstance(value, bool | int | float) or (isinstance(value, str) and value.isidentifier())
        case ast.Call(func=ast.Name(id="Pow"), args=[base, exponent], keywords=[]):
            return _is_arithmetic(base) and ast.unparse(exponent) in _EXPONENTS
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            values = [*args, *(keyword.value for keyword in keywords)]
            return name in _FUNCTIONS and all(_is_arithmetic(value) for value in values)
        case ast.Subscript(
            value=ast.Call(func=ast.Attribute(value=inner, attr="size"), args=[], keywords=[]), slice=index
        ):
            return _is_input(inner) and isinstance(index, ast.Constant)
        case ast.Name(id=name):
            return name[:1] in "su" and name[1:].isdigit()  # a symbol of torch's: s0, u1
        case _ if isinstance(node, _NODES):
            return all(_is_arithmetic(child) for child in ast.iter_child_nodes(node))
    return False


def _is_input(node: ast.AST) -> bool:
    """`L['x']`, or what is in a list or dict that is an input."""
    while isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        node = node.value
        if isinstance(node, ast.Name):
            return node.id == _INPUTS
    return False
