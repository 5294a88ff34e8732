"""Outputs that may shrink: the pruned network returns the kept entries, and so does the masked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import graphprune as gp
from graphprune.coalition import kept_outputs
from graphprune.errors import OptionError
from graphprune.game.masking import mask_network
from graphprune.graph import DependencyGraph, Kept, trace
from graphprune.surgery import cut
from tests.helpers import TOLERANCE, batch_of, error, random_kept, run, run_zeroed


class Heads(nn.Module):
    """Features, a map and classes come out; the features are read by the classifier, too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.map = nn.Conv2d(6, 5, 1)
        self.head = nn.Linear(6, 8)

    def forward(self, x: Tensor) -> dict[str, Any]:
        x = torch.relu(self.norm(self.stem(x)))
        pooled = x.mean((2, 3))
        return {"logits": self.head(pooled), "rest": (pooled, self.map(x))}


def made(unpin_outputs: bool | str | Sequence[str]) -> tuple[nn.Module, DependencyGraph]:
    torch.manual_seed(0)
    model = Heads().double().eval()
    inputs = (torch.randn(2, 3, 8, 8, dtype=torch.float64),)
    return model, trace(model, inputs, unpin_outputs=unpin_outputs)


def sizes(graph: DependencyGraph) -> dict[str, int]:
    return {group.name: len(group) for group in graph.groups}


def narrowed(outputs: list[Tensor], graph: DependencyGraph, kept: Kept) -> list[Tensor]:
    """Take the kept entries out of what the original returns."""
    found = list(outputs)
    for (place, dim), entries in kept_outputs(graph, kept).items():
        found[place] = found[place].index_select(dim, torch.from_numpy(entries))
    return found


@pytest.mark.parametrize(
    ("unpin", "expected"),
    [
        (False, {}),
        ("logits", {"head.weight": 8}),
        ("rest.1", {"map.weight": 5}),
        (("0", "2"), {"head.weight": 8, "map.weight": 5}),
        ("rest.*", {"stem.weight": 6, "map.weight": 5}),
        (True, {"stem.weight": 6, "map.weight": 5, "head.weight": 8}),
    ],
)
def test_what_is_unpinned_is_pruned(
    unpin: bool | str | tuple[str, ...], expected: dict[str, int]
) -> None:
    model, graph = made(unpin)
    assert sizes(graph) == expected
    for seed in range(3):
        kept = random_kept(graph, 0.4, seed)
        fresh = batch_of(graph.example_inputs, 3, seed)
        pruned = run(cut(graph, kept), fresh)
        assert error(run(mask_network(graph, kept), fresh), pruned) <= TOLERANCE
        original = run_zeroed(model, graph, kept, fresh)
        assert error(narrowed(original, graph, kept), pruned) <= TOLERANCE


def test_names_of_outputs() -> None:
    _, graph = made(False)
    assert [output.name for output in graph.outputs] == ["logits", "rest.0", "rest.1"]
    alone = trace(nn.Linear(4, 3), (torch.randn(2, 4),))
    assert [output.name for output in alone.outputs] == ["0"]


def test_unknown_outputs_are_refused() -> None:
    with pytest.raises(OptionError, match="'boxes' matches no output") as caught:
        made("boxes")
    assert "logits, rest.0, rest.1" in caught.value.hint


def test_one_entry_stays() -> None:
    graph = trace(nn.Linear(4, 3), (torch.randn(2, 4),), unpin_outputs=True)
    ranking = gp.rank(graph, criterion="l2")
    plan = gp.select(ranking, ratio=0.6)
    assert [len(group.removed_units) for group in plan.groups] == [2]
    with pytest.raises(gp.errors.BudgetError):
        gp.select(ranking, ratio=0.9)


def test_an_output_that_holds_the_batch_stays() -> None:
    """Entries along an axis into which the batch is folded cannot be numbered."""

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x).flatten()

    graph = trace(Flat(), (torch.randn(2, 4),), unpin_outputs=True)
    assert not graph.groups
    assert {pin.reason for pin in graph.pinned} == {
        "an axis of the output into which the batch is folded"
    }


def test_an_output_given_twice_is_pinned_unless_both_are_unpinned() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.fc(x)
            return x, x

    inputs = (torch.randn(2, 4),)
    assert not trace(Twice(), inputs, unpin_outputs="0").groups
    assert sizes(trace(Twice(), inputs, unpin_outputs=True)) == {"fc.weight": 3}


def test_a_plan_says_what_goes_of_the_outputs() -> None:
    _, graph = made("rest.1")
    plan = gp.select(gp.rank(graph, criterion="random"), ratio=0.4)
    gone = plan.removed["map.weight"][0]
    assert len(gone) == 2
    assert plan.removed_outputs == {"rest.1": {1: gone}}


def test_in_place_and_onnx(tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)).eval()
    graph = gp.trace(model, (torch.randn(2, 6),), unpin_outputs=True)
    plan = gp.select(gp.rank(graph, criterion="l1"), ratio=0.4)
    pruned = gp.prune(graph, plan)
    own = gp.prune(graph, plan, in_place_of=model)
    x = torch.randn(3, 6)
    with torch.no_grad():
        assert pruned(x).shape == (3, 2)
        torch.testing.assert_close(own(x), pruned(x))
    gp.export_onnx(pruned, tmp_path / "pruned.onnx")
    assert gp.validate(pruned, tmp_path / "pruned.onnx").ok


@pytest.mark.parametrize("criterion", ["shapley", "taylor", "fisher", "l2"])
def test_classes_that_never_matter_go_first(criterion: str) -> None:
    """A class whose logit is far below all others carries no probability."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)).eval()
    with torch.no_grad():
        model[2].bias.copy_(torch.tensor([0.0, -30.0, 0.1, -30.0]))
        model[2].weight[[1, 3]] *= 0.1  # for the norm
    graph = gp.trace(model, (torch.randn(2, 6),), unpin_outputs=True)
    ranking = gp.rank(graph, (torch.randn(16, 6),), criterion=criterion)
    scores = next(group for group in ranking.groups if group.name == "2.weight").scores
    assert set(np.argsort(scores)[:2].tolist()) == {1, 3}


def test_infinite_and_unreadable_values_are_refused() -> None:
    model = nn.Linear(6, 4).eval()
    data = (torch.randn(8, 6), torch.arange(8) % 4)
    graph = gp.trace(model, (torch.randn(2, 6),), unpin_outputs=True)
    with pytest.raises(OptionError, match="'cross-entropy' is infinite"):
        gp.rank(graph, data, criterion="shapley", value="cross-entropy")
    with pytest.raises(
        OptionError, match=r"the game of group weight empties the network's outputs"
    ):
        gp.rank(graph, data, criterion="shapley-paper", value="kl")
    options = {"value": "accuracy", "game": "network", "estimator": "permutation"}
    assert len(gp.rank(graph, data, criterion="shapley", **options).scores) == 4
    sequence = gp.trace(nn.Conv1d(3, 4, 3), (torch.randn(2, 3, 9),), unpin_outputs=True)
    with pytest.raises(OptionError, match="along dim 1, which is not its class dim"):
        gp.rank(sequence, criterion="shapley")
    assert len(gp.rank(sequence, criterion="l1").scores) == 4
