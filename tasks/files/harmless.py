"""Pure. Whether an expression that others will evaluate as Python can do nothing but arithmetic on sizes."""

from __future__ import annotations

import ast
import math

MAX_CHARACTERS = 10_000
MAX_TERMS = 1_000
"""Of an expression that is multiplied out."""
_MAX_NUMBER = 2**63
_OPERATIONS = (
    *(ast.And, ast.Or, ast.Not, ast.USub, ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Div, ast.Mod),
    *(ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE),
)
"""No power of any number: `9**9**9` is arithmetic and never ends."""
_FUNCTIONS = frozenset(
    [
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
_EXPONENTS = {"Integer(2)": 2, "Integer(3)": 3, "Integer(-1)": 1}
"""And how many times over a base stands in its power."""
_INPUTS = "L"
"""What guards call the inputs: `L['x'].size()[0]`."""


def is_harmless(expression: str) -> bool:
    """Whether an expression of sizes holds only numbers, symbols, comparisons and the functions of sizes, and ends soon."""
    if len(expression) > MAX_CHARACTERS:
        return False
    try:
        _terms(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _terms(node: ast.AST, is_base: bool = False) -> int:
    """How many terms it has when it is multiplied out; `is_base`: in that of a power. ValueError: it is no arithmetic."""
    match node:
        case ast.Constant(value=bool() | int() | float() as number) if (
            math.isfinite(number) and abs(number) <= _MAX_NUMBER
        ):
            return 1
        case ast.Name(id=name) if name[:1] in "su" and name[1:].isdigit():  # a symbol of torch's: s0, u1
            return 1
        case ast.Subscript(
            value=ast.Call(func=ast.Attribute(value=inner, attr="size"), args=[], keywords=[]),
            slice=ast.Constant(),
        ) if _is_input(inner):
            return 1
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str(name))], keywords=assumed) if (
            name.isidentifier()
        ):
            return _bounded(sum((_terms(one.value) for one in assumed), 1))
        case ast.Call(func=ast.Name(id="Pow"), args=[base, exponent], keywords=[]) if not is_base:
            if (times := _EXPONENTS.get(ast.unparse(exponent))) is not None:
                return _bounded(_terms(base, is_base=True) ** times)
        case ast.Call(func=ast.Name(id=function), args=args, keywords=keywords) if function in _FUNCTIONS:
            parts = [_terms(part, is_base) for part in (*args, *(keyword.value for keyword in keywords))]
            return _bounded(math.prod(parts) if function == "Mul" else sum(parts))
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _bounded(_terms(left, is_base) * _terms(right, is_base))
        case _ if isinstance(node, _OPERATIONS):
            return 0
        case ast.Compare() | ast.BoolOp() | ast.BinOp() | ast.UnaryOp():
            return _bounded(sum(_terms(child, is_base) for child in ast.iter_child_nodes(node)))
    raise ValueError(f"{type(node).__name__} is no arithmetic on sizes")


def _bounded(terms: int) -> int:
    if terms > MAX_TERMS:
        raise ValueError(f"it has more than {MAX_TERMS} terms")
    return terms


def _is_input(node: ast.AST) -> bool:
    """`L['x']`, or what is in a list or dict that is an input."""
    while isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        node = node.value
        if isinstance(node, ast.Name):
            return node.id == _INPUTS
    return False
