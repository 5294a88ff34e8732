"""What is passed by mistake in place of a module, or of a tuple of inputs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import graphprune as gp
from graphprune.errors import TraceError

X = torch.randn(2, 4)


@pytest.mark.parametrize("given", ["model.pt", nn.Linear(4, 3).state_dict(), nn.Linear])
def test_what_is_no_module_is_refused(given: object) -> None:
    name = type(given).__name__
    with pytest.raises(TraceError, match=f"of type {name}, not") as caught:
        gp.trace(given, (X,))
    assert "load_model" in str(caught.value.hint)


def test_a_program_is_refused_but_its_module_is_not() -> None:
    program = torch.export.export(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)).eval(), (X,))
    with pytest.raises(TraceError, match="type ExportedProgram, not") as caught:
        gp.trace(program, (X,))
    assert "program.module()" in str(caught.value.hint)
    assert gp.trace(program.module(), (X,)).n_units == 8


@pytest.mark.parametrize("inputs", [X, {"x": X}, None])
def test_inputs_that_are_no_tuple_are_refused(inputs: object) -> None:
    with pytest.raises(TraceError, match="not a tuple"):
        gp.trace(nn.Linear(4, 3), inputs)
