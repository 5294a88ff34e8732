"""The grammar of what reaches torch's parsers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphprune.load.expressions import (
    is_expression,
    is_guard,
    is_name,
    is_path,
    is_symbol,
    is_tree_spec,
)


@pytest.mark.parametrize(
    "text",
    [
        "s77",
        "2*s0 + 1",
        "Add(FloorDiv(Add(Symbol('s0', positive=True, integer=True), Integer(-1)), Integer(2)), "
        "Integer(1))",
        "Pow(Symbol('s0', integer=True), Integer(2))",
        "Pow(s0, Integer(-1))",
        "Mul(Float('0.5', precision=53), Symbol('s1'))",
        "Max(1, s0) // 2",
        "s0 < 5",
        "((s0 - 1)//2)**2",
    ],
)
def test_expressions_of_torch_pass(text: str) -> None:
    assert is_expression(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "os", "s0.x", "s0[0]", "'s0'", "f(s0)", "[s0]", "lambda: 1", "s0 if s0 else 1",
        "Max(*s0)", "Symbol('os')", "Symbol('s0', cls=1.5)", "Integer('1')", "Float('nan()')",
        "2**9", "2**s0", "(2**8)**8", "Pow(2**8, 8)", "\uff530", "s0 #",
         "s0\n", "s0;s1", "(" * 500,
        "PowByNatural(9, 9)", "LShift(1, 999)", "__import__", "1+" * 20_000 + "1", "FloorDiv(a=1)",
    ],
)  # fmt: skip
def test_everything_else_does_not(text: str) -> None:
    assert not is_expression(text)


@given(st.text(max_size=30))
def test_any_text_gets_an_answer(text: str) -> None:
    if is_expression(text):
        assert "__" not in text
        assert "'" not in text or "Symbol" in text or "Float" in text
    assert isinstance(is_guard(text), bool)
    assert isinstance(is_tree_spec(text), bool)
    assert not is_name(text) or text.isidentifier()


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("(1 + (((-1) + L['x'].size()[3]) // 2)) != 1", True),
        ("L['args'][0].size()[0] >= 2 and Max(1, L['x'].size()[0]) < 5", True),
        ("torch.sym_max(1, L['x'].size()[2]) > math.ceil(2)", True),
        ("torch.load('x')", False),
        ("torch.size()", False),
        ("torch.sym_max.__globals__", False),
        ("L['x'].__class__", False),
        ("L['x'].size(1)", False),
        ("exec('x')", False),
        ("L['x y'].size()[0] > 1", False),
        ("[x for x in L]", False),
    ],
)
def test_guards(text: str, plain: bool) -> None:
    assert is_guard(text) is plain


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ('[1, {"type": null, "context": null, "children_spec": []}]', True),
        ('[1, {"type": "builtins.dict", "context": "[\\"x\\"]", "children_spec": []}]', True),
        ('[1, {"type": "builtins.dict", "context": "[\\"x y\\"]", "children_spec": []}]', False),
        ('[1, {"type": "builtins.dict", "context": "{}", "children_spec": []}]', False),
        ('[1, {"type": "x.Own", "context": "null", "children_spec": []}]', False),
        ('[2, {"type": null, "context": null, "children_spec": []}]', False),
        ("nonsense", False),
        ("[]", False),
        ("[" * 5000, False),
    ],
)
def test_tree_specs(text: str, plain: bool) -> None:
    assert is_tree_spec(text) is plain


def test_names_paths_and_symbols() -> None:
    assert is_name("p_layer1_0_weight")
    assert not any(map(is_name, ["", "a b", "a.b", "1a", "__class__", "a\n", "é"]))
    assert is_path("layer1.0.weight")
    assert is_path("block1.block1-0.weight")
    assert is_path("")
    assert not any(map(is_path, ["a..b", "a b", "a.__dict__.b", 'a"', "a\\"]))
    assert is_symbol("s77")
    assert not any(map(is_symbol, ["s", "77", "u99999999", "os1", "s1 "]))
