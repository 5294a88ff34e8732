"""Which strings of an exported program may reach a parser.

``torch.export.load`` hands shape expressions to ``sympy.sympify``, which evaluates them as Python.
So each must be integers, symbols such as ``s77``, arithmetic, and calls of the few functions that
torch itself writes. Exponents are small, so that no expression takes forever either.
"""

from __future__ import annotations

import ast
import json
import re

_MAX_LENGTH = 20_000
_MAX_EXPONENT = 8
_SYMBOL = re.compile(r"(s|u|z|zf|zuf|f|i)\d{1,6}", re.ASCII)
_FLOAT = re.compile(r"-?\d{1,40}(\.\d{1,40})?(e[+-]?\d{1,3})?", re.ASCII)
_NAME = re.compile(r"[A-Za-z_]\w{0,999}", re.ASCII)
_FUNCTIONS = frozenset(
    [
        "Add",
        "Mul",
        "Max",
        "Min",
        "Mod",
        "PythonMod",
        "FloorDiv",
        "CleanDiv",
        "CeilDiv",
        "ModularIndexing",
        "CeilToInt",
        "FloorToInt",
        "IntTrueDiv",
        "FloatTrueDiv",
        "TruncToInt",
        "TruncToFloat",
        "RoundToInt",
        "ToFloat",
        "Identity",
        "Where",
        "Abs",
        "IsNonOverlappingAndDenseIndicator",
        "Rational",
        "Equality",
        "Eq",
        "Unequality",
        "Ne",
        "LessThan",
        "Le",
        "StrictLessThan",
        "Lt",
        "GreaterThan",
        "Ge",
        "StrictGreaterThan",
        "Gt",
        "And",
        "Or",
        "Not",
    ]
)
_GUARD_METHODS = frozenset({"size", "stride", "storage_offset"})
_GUARD_FUNCTIONS = frozenset(
    {"sym_max", "sym_min", "sym_float", "sym_int", "sym_not", "sym_sum", "ceil", "floor", "trunc"}
)
_GUARD_ROOTS = frozenset({"L", "torch", "math"})
_TREE_TYPES = frozenset({"builtins.tuple", "builtins.list", "builtins.dict"})


def is_symbol(text: str) -> bool:
    """Whether the text is a shape symbol as torch names them."""
    return _SYMBOL.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Whether the text can only ever be a variable's name in generated code."""
    return _NAME.fullmatch(text) is not None and not _is_dunder(text)


def is_path(text: str) -> bool:
    """Whether the text is a parameter's or module's dotted name; empty means the root."""
    # RegNet's blocks have dashes; torch puts such names between quotes, which none may contain.
    parts = text.split(".")
    return text == "" or all(
        re.fullmatch(r"[\w-]{1,999}", part, re.ASCII) and not _is_dunder(part) for part in parts
    )


def is_expression(text: str) -> bool:
    """Whether the text is plain shape arithmetic."""
    tree = _parsed(text)
    return tree is not None and _is_arithmetic(tree)


def is_guard(text: str) -> bool:
    """Whether the text compares sizes of inputs and does nothing else."""
    tree = _parsed(text)
    return tree is not None and all(_is_guard_node(node) for node in ast.walk(tree))


def is_tree_spec(text: str) -> bool:
    """Whether the text describes nested tuples, lists and dicts with plain keys.

    Other contents would make torch import modules and look up enums by name.
    """
    try:
        protocol, schema = json.loads(text)
        return protocol == 1 and _is_tree(schema)
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


def _is_dunder(text: str) -> bool:
    return text.startswith("__") and text.endswith("__")


def _parsed(text: str) -> ast.expr | None:
    # What Python's parser skips or folds (comments, other alphabets), sympy might read differently.
    if len(text) > _MAX_LENGTH or "#" in text or not (text.isascii() and text.isprintable()):
        return None
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _is_arithmetic(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=bool() | int() | float()):
            return True
        case ast.Name(id=name):
            return is_symbol(name)
        case ast.UnaryOp(operand=operand):
            return _is_arithmetic(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _is_small_power(left, right)
        case ast.BinOp(left=left, right=right, op=operator):
            plain = isinstance(operator, ast.Add | ast.Sub | ast.Mult | ast.FloorDiv | ast.Div)
            return (plain or isinstance(operator, ast.Mod)) and _all_arithmetic(left, right)
        case ast.Compare(left=left, comparators=others):
            return _all_arithmetic(left, *others)
        case ast.Call(func=ast.Name(id=name)):
            return _is_call(name, node)
    return False


def _all_arithmetic(*nodes: ast.expr) -> bool:
    return all(_is_arithmetic(node) for node in nodes)


def _is_call(name: str, node: ast.Call) -> bool:
    match name, node.args:
        case "Symbol", [ast.Constant(value=str(symbol))]:
            return is_symbol(symbol) and _are_flags(node.keywords)
        case "Integer", [argument] if not node.keywords:
            return _integer(argument) is not None
        case "Float", [ast.Constant(value=str(number))]:
            return _FLOAT.fullmatch(number) is not None and _are_flags(node.keywords)
        case "Pow", [base, exponent] if not node.keywords:
            return _is_small_power(base, exponent)
    return name in _FUNCTIONS and not node.keywords and _all_arithmetic(*node.args)


def _are_flags(keywords: list[ast.keyword]) -> bool:
    # Symbol('s0', positive=True, integer=True) and Float('0.5', precision=53).
    return all(
        keyword.arg is not None
        and isinstance(keyword.value, ast.Constant)
        and isinstance(keyword.value.value, bool | int)
        and keyword.value.value <= 1000
        for keyword in keywords
    )


def _is_small_power(base: ast.expr, exponent: ast.expr) -> bool:
    value = _integer(exponent)
    if value is None or abs(value) > _MAX_EXPONENT or not _is_arithmetic(base):
        return False
    # A power of a power of ... grows without bound in a few characters.
    return not any(
        isinstance(node, ast.Pow) or (isinstance(node, ast.Name) and node.id == "Pow")
        for node in ast.walk(base)
    )


def _integer(node: ast.expr) -> int | None:
    match node:
        case ast.Constant(value=bool()):
            return None
        case ast.Constant(value=int(value)):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(value))):
            return -value
        case ast.Call(func=ast.Name(id="Integer"), args=[argument], keywords=[]):
            return _integer(argument)
    return None


def _is_guard_node(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="torch" | "math"), attr=name)):
            return name in _GUARD_FUNCTIONS and not node.keywords
        case ast.Call(func=ast.Attribute(attr=method), args=[], keywords=[]):
            return method in _GUARD_METHODS
        case ast.Call(func=ast.Name(id=name), keywords=[]):
            return name in _FUNCTIONS
        case ast.Constant(value=str(text)):
            return is_name(text)
        case ast.Constant(value=value):
            return isinstance(value, bool | int | float)
        case ast.Attribute(attr=name):
            return name in _GUARD_METHODS or name in _GUARD_FUNCTIONS
        case ast.Name(id=name):
            return name in _GUARD_ROOTS or is_symbol(name) or name in _FUNCTIONS
    return isinstance(
        node,
        ast.Compare
        | ast.BoolOp
        | ast.BinOp
        | ast.UnaryOp
        | ast.Subscript
        | ast.expr_context
        | ast.cmpop
        | ast.boolop
        | ast.unaryop
        | ast.Add
        | ast.Sub
        | ast.Mult
        | ast.FloorDiv
        | ast.Mod,
    )


def _is_tree(node: dict[str, object]) -> bool:
    children = node["children_spec"]
    if not isinstance(children, list):
        return False
    if node["type"] is None:
        return node["context"] is None and not children
    plain = node["type"] in _TREE_TYPES and _is_tree_context(node["context"])
    return plain and all(_is_tree(child) for child in children)


def _is_tree_context(context: object) -> bool:
    if not isinstance(context, str):
        return False
    keys = json.loads(context)
    if keys is None:
        return True
    return isinstance(keys, list) and all(isinstance(key, str) and is_name(key) for key in keys)
