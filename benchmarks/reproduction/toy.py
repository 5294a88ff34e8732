"""The paper's first figure: a network of four units that computes the larger of two numbers.

Two units make half of the difference's magnitude, one makes half of the sum, and the fourth does
harm. Weights and activity do not tell them apart; Shapley values do, and say by their sign that the
network is better off without the fourth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import graphprune as gp
from benchmarks.contest.table import Table
from graphprune.estimators.exact import ExactEstimator

PUBLISHED = {
    "Shapley, exact": (0.80, 0.76, 4.96, -1.04),
    "weight norm": (0.5, 2.0, 2.0, 2.0),
    "APoZ": (0.51, 0.49, 1.0, 1.0),
}
"""The figures of the published notebook, on 100 pairs of its own (for APoZ, shares)."""

_PAIRS = 2000


@dataclass(frozen=True)
class Toy:
    """What a metric says of the four units.

    Args:
        metric: The metric.
        scores: Its scores, by unit.
    """

    metric: str
    scores: tuple[float, ...]


class LargerOfTwo(nn.Module):
    """Takes pairs of positive numbers (N, 2) to (N, 1): nearly the larger one."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(2, 4, bias=False), nn.Linear(4, 1, bias=False)
        with torch.no_grad():
            self.hidden.weight.copy_(
                torch.tensor([[-0.25, 0.25], [1.0, -1.0], [1.0, 1.0], [1.0, 1.0]])
            )
            self.out.weight.copy_(torch.tensor([[2.0, 0.5, 0.5, -0.1]]))

    def forward(self, x: Tensor) -> Tensor:
        """Return the estimate."""
        found: Tensor = self.out(torch.relu(self.hidden(x)))
        return found


@dataclass(frozen=True)
class LargerGame:
    """The four units as players; a coalition is worth minus its absolute error on every pair."""

    model: LargerOfTwo
    pairs: Tensor
    n_players: int = 4
    unions: None = None
    evaluations: int = 0

    def values(self, coalitions: Tensor) -> Tensor:
        """Return (n_coalitions, n_pairs) float64 for (n_coalitions, 4) Bool."""
        with torch.no_grad():
            hidden = torch.relu(self.model.hidden(self.pairs))
            found = self.model.out(hidden * coalitions[:, None])[..., 0]
        return -(found - self.pairs.max(1).values).abs().double()


def toy() -> list[Toy]:
    """Score the four units."""
    pairs = 10 * torch.rand(_PAIRS, 2, generator=torch.Generator().manual_seed(0))
    model = LargerOfTwo().eval()
    graph = gp.trace(model, (pairs[:2],))
    exact = ExactEstimator().estimate(LargerGame(model, pairs))
    scored = {
        "Shapley, exact": exact.values,
        "Taylor, signed": _taylor(model, pairs),
        "APoZ": gp.rank(graph, (pairs,), "apoz").scores,
        "weight norm": gp.rank(graph, None, "l1").scores,
    }
    return [Toy(name, tuple(scores.tolist())) for name, scores in scored.items()]


def _taylor(model: LargerOfTwo, pairs: Tensor) -> npt.NDArray[np.float64]:
    """Return how much the mean absolute error rises without each unit, to first order."""
    z = torch.relu(model.hidden(pairs)).detach().requires_grad_()
    (model.out(z)[:, 0] - pairs.max(1).values).abs().mean().backward()
    assert z.grad is not None
    found: npt.NDArray[np.float64] = -(z * z.grad).detach().sum(0).double().numpy()
    return found


def table(results: list[Toy]) -> Table:
    """Show what was found beside the published figures."""
    body = []
    for each in results:
        told = PUBLISHED.get(each.metric)
        published = "-" if told is None else ", ".join(f"{value:g}" for value in told)
        body.append((each.metric, *(f"{score:.2f}" for score in each.scores), published))
    units = "half |a - b|, one side", "other side", "half the sum", "does harm"
    return Table("The larger of two numbers", ("", *units, "published"), tuple(body))
