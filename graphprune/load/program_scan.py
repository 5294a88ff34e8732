"""Which serialized programs are plain: every string in them is what it claims to be.

torch evaluates shape expressions, resolves operators by attribute, looks classes up by the names in
tree specs, and writes names into the Python source that it compiles for the graph. The walk goes by
torch's schema, so each string has a known role; a string without a role must be a plain name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch._export.serde import schema
from torch._export.serde.union import _Union

from graphprune.load.expressions import (
    is_expression,
    is_guard,
    is_name,
    is_path,
    is_symbol,
    is_tree_spec,
)
from graphprune.load.operators import is_known_operator

_MAX_SHOWN = 60
_MAX_TEXT = 10_000
_REFUSED_ARGUMENTS = {
    "as_graph": "a subgraph",
    "as_custom_obj": "a custom object",
    "as_operator": "an operator as an argument",
    "as_string_to_argument": "a dict argument",
}
_Check = tuple[str, Callable[[str], bool]]


class Unplain(Exception):
    """Something in an archive is not plain; the message says what, fit to follow "holds"."""


def require_plain_program(program: schema.ExportedProgram) -> None:
    """Check every string of a serialized program.

    Raises:
        Unplain: One of them is not of the kind that its place allows.
    """
    _walk(program)
    for argument in program.graph_module.graph.inputs:
        if argument.type == "as_string":
            raise Unplain("a text input")


def require_plain_dimension(value: Any) -> int:
    """Return a stored tensor's size, stride or offset.

    Raises:
        Unplain: It is an expression, or negative.
    """
    if value.type == "as_int" and isinstance(value.as_int, int) and value.as_int >= 0:
        return int(value.as_int)
    raise Unplain("a stored tensor of a size that is not a plain number")


def _is_text(text: str) -> bool:
    return len(text) <= _MAX_TEXT


def _is_argument_name(text: str) -> bool:
    return text == "" or is_name(text)


_FREE: _Check = ("text", lambda _: True)
_NAME: _Check = ("the name", is_name)
_PATH: _Check = ("the parameter name", is_path)
_TREE: _Check = ("the structure", is_tree_spec)
# (class, field) -> what its strings must be. Metadata is only ever shown or compared, not run.
_ROLES: dict[tuple[str, str], _Check] = {
    ("SymExpr", "expr_str"): ("the expression", is_expression),
    ("Node", "target"): ("the operator", is_known_operator),
    ("Node", "metadata"): _FREE,
    ("GraphModule", "metadata"): _FREE,
    ("ExportedProgram", "torch_version"): _FREE,
    ("ExportedProgram", "guards_code"): ("the guard", is_guard),
    ("ExportedProgram", "range_constraints"): ("the symbol", is_symbol),
    ("ModuleCallSignature", "in_spec"): _TREE,
    ("ModuleCallSignature", "out_spec"): _TREE,
    ("ModuleCallEntry", "fqn"): _PATH,
    ("InputToParameterSpec", "parameter_name"): _PATH,
    ("InputToBufferSpec", "buffer_name"): _PATH,
    ("InputToTensorConstantSpec", "tensor_constant_name"): _PATH,
    ("BufferMutationSpec", "buffer_name"): _PATH,
    ("ParameterMutationSpec", "parameter_name"): _PATH,
    ("NamedArgument", "name"): ("the argument name", _is_argument_name),
    ("Argument", "as_string"): ("text", _is_text),
    ("Argument", "as_strings"): ("text", _is_text),
}


def _walk(record: Any) -> None:
    owner = type(record).__name__
    if isinstance(record, _Union):
        _require_allowed_argument(owner, record.type)
        _values(record.value, _ROLES.get((owner, record.type), _NAME))
        return
    for field in dataclasses.fields(record):
        _values(getattr(record, field.name), _ROLES.get((owner, field.name), _NAME))


def _require_allowed_argument(owner: str, form: str) -> None:
    if owner == "Argument" and form in _REFUSED_ARGUMENTS:
        raise Unplain(_REFUSED_ARGUMENTS[form])
    if owner == "ConstantValue" and form == "as_string":
        # torch pastes it into the source of a guard.
        raise Unplain("a text constant as an input")
    if owner == "InputSpec" and form in ("custom_obj", "token"):
        raise Unplain("a custom object as an input")


def _values(value: Any, check: _Check) -> None:
    if isinstance(value, str):
        _require(value, check)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _require(key, check)
            _values(item, check)
    elif isinstance(value, list | tuple):
        for item in value:
            _values(item, check)
    elif dataclasses.is_dataclass(value):
        _walk(value)


def _require(text: str, check: _Check) -> None:
    what, passes = check
    if not passes(text):
        shown = text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
        raise Unplain(f"{what} {shown!r}")
