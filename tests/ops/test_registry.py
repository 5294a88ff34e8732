"""The registry of rules, and a few rules called on their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graphprune.errors import OptionError
from graphprune.labels.coupler import Coupler, Reports
from graphprune.labels.value import Value
from graphprune.ops import OpCall, UnsupportedCall, known_overloads, rewrite, rule, rule_for


def test_every_overload_exists() -> None:
    for name in known_overloads():
        if name.startswith("aten."):
            _, packet, overload = name.split(".")
            assert overload in getattr(torch.ops.aten, packet).overloads()


def test_a_second_rule_is_refused() -> None:
    before = rule_for("aten.relu.default")
    with pytest.raises(OptionError, match=r"aten\.relu\.default"):
        rule("aten.relu.default")(lambda call: call.value(0))
    assert rule_for("aten.relu.default") is before


def test_a_second_rewrite_is_refused() -> None:
    with pytest.raises(OptionError, match=r"aten\.view\.default"):
        rewrite("aten.view.default")(lambda resize: None)


def call(*arguments: object, shape: tuple[int, ...]) -> OpCall:
    return OpCall(Coupler("op", Reports(n_atoms=100)), arguments, (shape,))


def test_arguments_are_checked() -> None:
    made = call(Value((2, 3)), 1, None, shape=(2, 3))
    assert made.value(0).shape == (2, 3)
    assert made.optional(2) is None
    assert made.get(2, "default") == "default"
    assert made.get(7, "default") == "default"
    assert made.dims(1, 2) == (1,)
    assert made.dims(2, 2) == (0, 1)
    with pytest.raises(UnsupportedCall, match="argument 1 is not a tensor"):
        made.value(1)
    with pytest.raises(UnsupportedCall, match="shape changes"):
        made.like(Value((3,)))


def test_a_unary_rule_passes_labels() -> None:
    tensor = Value((2, 3), (np.arange(3).reshape(1, 3),))
    relu = rule_for("aten.relu.default")
    assert relu is not None
    result = relu(call(tensor, shape=(2, 3)))
    assert isinstance(result, Value)
    assert np.array_equal(result.factors[0], tensor.factors[0])
