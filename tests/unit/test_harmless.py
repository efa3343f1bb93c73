"""What torch would evaluate as Python when it loads a program: only arithmetic on sizes may pass."""

from __future__ import annotations

import pytest

from tasks.files.harmless import MAX_CHARACTERS, is_harmless


@pytest.mark.parametrize(
    "expression",
    [
        "Symbol('s53', positive=True, integer=True)",
        "Add(Symbol('s0', positive=True, integer=True), Integer(-1))",
        "Mul(Integer(16), Symbol('s77', positive=True, integer=True))",
        "Pow(Symbol('s53', positive=True, integer=True), Integer(2))",
        "FloorDiv(Symbol('s1', integer=True), Integer(4))",
        "Max(Integer(1), Symbol('u0', integer=True))",
        "s0 + 2*s1 // 3",
        "-s0 % 4",
        "L['input_ids'].size()[1] == L['attention_mask'].size()[1]",
        "2 <= L['x'].size()[0] and L['x'].size()[0] <= 1024",
        "L['args'][0]['x'].size()[1] % 8 == 0",
        "not s0 > 3",
        "7",
        f"Integer({2**63})",
        "Pow(Add(Symbol('s0', integer=True), Integer(-1)), Integer(-1))",
        "Mul(Pow(s0, Integer(2)), Pow(s1, Integer(3)))",
        "Mul(Integer(4), Add(Integer(1), FloorDiv(Add(Symbol('s77'), Integer(-1)), Integer(8))))",
    ],
)
def test_sizes_are_harmless(expression):
    assert is_harmless(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')",
        "exec('1')",
        "eval('1')",
        "open('/etc/passwd')",
        "Symbol.__class__",
        "Symbol('s0').__class__.__bases__",
        "Symbol('a b')",
        "Symbol('__import__(\"os\")')",
        "L['x'].size().__class__",
        "L['x'].__class__",
        "L['x'].size(1)[0]",
        "L[0 if True else 1].size()[0]",
        "M['x'].size()[0]",
        "(lambda: 0)()",
        "[c for c in ()]",
        "{}",
        "f'{1}'",
        "s0 if s1 else s2",
        "(s0 := 3)",
        "9**9**9",
        "Pow(9, Pow(9, 9))",
        "Pow(Integer(9), Integer(999999999))",
        "Add(*[1])",
        "Add(**{})",
        "os",
        "sympy.Symbol('s0')",
        "lambdify",
        "S('1')",
        "sympify('1')",
        "b'1'",
        "1j",
        "...",
        "None",
        "a\nb",
        "import os",
        "'aaaaaaaa' * 99999999999 == L['x'].size()[0]",
        "Integer('7')",
        "Symbol('s0', positive='yes')",
        "Symbol('s0', 'positive')",
        "Symbol()",
        f"{2**63 + 1}",
        f"-{2**64} * s0",
        "1e999",
        "Pow(Pow(s0, Integer(3)), Integer(3))",
        "Pow(Add(Integer(1), Pow(Integer(9), Integer(3))), Integer(2))",
        "Pow(" * 30 + "Integer(9)" + ", Integer(3))" * 30,
        "Mul(" + ", ".join(["Add(s0, s1, s2)"] * 7) + ")",
        "*".join(["(s0 + s1)"] * 10),
        "Pow(Add(" + ", ".join(f"s{place}" for place in range(11)) + "), Integer(3))",
        "Add(" + ", ".join(["s0"] * 1001) + ")",
        "",
        "(",
        "\0",
        "(" * 5000 + "1" + ")" * 5000,
        "1+" * MAX_CHARACTERS + "1",
    ],
)
def test_everything_else_is_not(expression):
    assert not is_harmless(expression)
