"""Names of parts of a model end up in generated code."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphprune.errors import TraceError
from graphprune.graph import trace


@pytest.mark.parametrize("name", ['0"),print(1),("', "a\\", "a\nb", 'x"'])
def test_names_that_would_run_as_code_are_refused(name: str) -> None:
    model = nn.Sequential(nn.Linear(4, 5))
    model.add_module(name, nn.Linear(5, 2))
    with pytest.raises(TraceError, match="a part named"):
        trace(model, (torch.randn(2, 4),))


def test_a_parameter_is_a_part() -> None:
    model = nn.Linear(4, 5)
    model.register_parameter('a"b', nn.Parameter(torch.zeros(1)))
    with pytest.raises(TraceError, match="a part named"):
        trace(model, (torch.randn(2, 4),))


@pytest.mark.parametrize("name", ["with space", "ümlaut", "a-b", "0"])
def test_other_names_are_fine(name: str) -> None:
    model = nn.Sequential()
    model.add_module(name, nn.Linear(4, 5))
    model.add_module("out", nn.Linear(5, 2))
    assert trace(model, (torch.randn(2, 4),)).groups[0].name == f"{name}.weight"
