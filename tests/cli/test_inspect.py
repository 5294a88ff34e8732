"""inspect: what people and machines are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Run

MODEL = ("net.py:net", "--input-shape", "3,8,8")

STACK = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(9, 32), nn.Linear(32, 9)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 9)
        self.a_rather_long_name_for_a_stack_of_layers = nn.Sequential(*(Block() for _ in range(12)))
        self.spare = nn.Linear(2, 2)

    def forward(self, x):
        x = self.a_rather_long_name_for_a_stack_of_layers(self.first(x))
        return torch.linalg.matrix_exp(x.unflatten(1, (3, 3)))
"""


@pytest.fixture
def stack(workplace: Path) -> tuple[str, ...]:
    (workplace / "stack.py").write_text(STACK)
    return ("stack.py:Stack", "--input-shape", "4")


def test_the_story_in_short(run: Run) -> None:
    shown = run("inspect", *MODEL).stdout
    assert "input  x: (N, 3, 8, 8) float32" in shown
    assert "output 0: (N, 5) float32" in shown
    assert "groups: 2, units: 20" in shown
    # A filter of stem and its bias, two of the norm, a row and a column of `inner` and a bias, a
    # column of side and of head. Two layers produce, three read, six tensors pass on.
    params = (27 + 1) + 2 + (2 * 12 - 1) * 9 + 1 + 8 + 5
    macs = 64 * (27 + (2 * 12 - 1) * 9 + 8) + 5
    cells = ["stem.weight", "12", "channel", str(params), f"{macs / 1000:.3g}", "k", "2+3+6"]
    assert cells in [line.split() for line in shown.splitlines()]
    assert "output of the network\n    1 axis: head.weight:0" in shown


def test_groups_that_are_alike_share_a_row(run: Run, stack: tuple[str, ...]) -> None:
    finished = run("inspect", *stack)
    name = "a_rather_long_name_for_a_stack_of_layers.*.up.weight"
    assert f"  {name} (12 alike)\n" in finished.stdout
    assert max(map(len, finished.stdout.splitlines())) <= 80
    # What is shown is a pattern that the options take.
    chosen = run("inspect", *stack, "--only", name, "--json").json
    assert not any(group["protected"] for group in chosen["groups"])


def test_ops_without_a_rule_are_named_with_their_line(run: Run, stack: tuple[str, ...]) -> None:
    shown = run("inspect", *stack).stdout
    line = next(k for k, text in enumerate(STACK.splitlines(), 1) if "matrix_exp" in text)
    assert f"aten.linalg_matrix_exp.default (stack.py:{line})" in " ".join(shown.split())
    assert "not used in evaluation mode (2): spare.weight, spare.bias" in shown


def test_pins_are_gathered_by_reason_and_listed_on_request(
    run: Run, stack: tuple[str, ...]
) -> None:
    short, whole = run("inspect", *stack).stdout, run("inspect", *stack, "--pins").stdout
    assert "13 axes:" in short
    assert "and 5 more (--pins)" in " ".join(short.split())
    assert "layers.11.down.weight:0" not in short
    assert "layers.11.down.weight:0" in whole
    assert "more" not in whole


def test_members_of_one_group(run: Run) -> None:
    shown = run("inspect", *MODEL, "--group", "stem").stdout
    assert "side.weight" in shown  # reads them
    assert "\nside.weight\n" not in shown  # is no group of those asked for
    assert "producer  stem.weight:0 (12)" in shown
    assert "follower  norm.{bias,running_mean,running_var,weight}:0 (12)" in shown
    assert "consumer  inner.weight:1 (12)" in shown
    assert "conv2d, net.py:19" in shown


def test_a_group_that_is_not_there(run: Run) -> None:
    finished = run("inspect", *MODEL, "--group", "stemm")
    assert finished.code == 2
    assert "did you mean stem" in finished.stderr


def test_everything_is_in_the_document(run: Run) -> None:
    document = run("inspect", *MODEL, "--skip", "side.weight", "--json").json
    stem, side = document["groups"]
    assert (stem["protected"], side["protected"]) == (False, True)
    assert (stem["kind"], stem["entries_per_unit"]) == ("channel", 1)
    assert {member["role"] for member in stem["members"]} == {"producer", "consumer", "follower"}
    assert all(member["source"].startswith("/") for member in stem["members"])
    assert 0.9 < document["prunable"]["params"] < 1
    (pin,) = document["pinned"]
    assert (pin["parameter"], pin["pinned"], pin["size"]) == ("head.weight", 5, 5)
    assert document["unknown"] == document["unused"] == []


def test_what_is_left_alone_is_marked(run: Run) -> None:
    assert "side.weight (left alone)" in run("inspect", *MODEL, "--skip", "side.weight").stdout
