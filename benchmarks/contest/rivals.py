"""Other libraries' estimators, playing our games: their algorithm, our evaluator."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.contest.metrics import Floats

if TYPE_CHECKING:
    from shapiq.approximator.base import Approximator

Values = Callable[[npt.NDArray[np.bool_]], Floats]
"""Mean performances (n_coalitions,) of coalitions (n_coalitions, n_players)."""

Rival = Callable[[Values, int, int, int], Floats]
"""(values, n_players, budget, seed) -> Shapley values (n_players,)."""


def installed() -> dict[str, Rival]:
    """Return the rivals that are there, by name."""
    rivals: dict[str, Rival] = {}
    if find_spec("captum"):
        rivals |= {
            "captum ShapleyValueSampling": captum_sampling,
            "captum KernelShap": captum_kernel,
        }
    if find_spec("shapiq"):
        rivals |= {
            "shapiq PermutationSamplingSV": shapiq_permutation,
            "shapiq KernelSHAP": shapiq_kernel,
            "shapiq SVARM": shapiq_svarm,
        }
    return rivals


def captum_sampling(values: Values, n_players: int, budget: int, seed: int) -> Floats:
    """Random orders; the coalitions of one are asked for together."""
    from captum.attr import ShapleyValueSampling  # type: ignore[import-untyped]

    method = ShapleyValueSampling(_forward(values))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        found = method.attribute(
            torch.ones(1, n_players),
            n_samples=max((budget - 2) // (n_players - 1), 1),
            perturbations_per_eval=n_players,
        )
    return _row(found)


def captum_kernel(values: Values, n_players: int, budget: int, seed: int) -> Floats:
    """Weighted regression on coalitions drawn by the Shapley kernel."""
    from captum.attr import KernelShap

    method = KernelShap(_forward(values))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        found = method.attribute(
            torch.ones(1, n_players), n_samples=budget, perturbations_per_eval=n_players
        )
    return _row(found)


def shapiq_permutation(values: Values, n_players: int, budget: int, seed: int) -> Floats:
    """Random orders."""
    from shapiq.approximator import PermutationSamplingSV

    method = PermutationSamplingSV(n_players, random_state=seed)
    return _approximated(method, values, n_players, budget)


def shapiq_kernel(values: Values, n_players: int, budget: int, seed: int) -> Floats:
    """Weighted regression on pairs of coalitions."""
    from shapiq.approximator import KernelSHAP

    method = KernelSHAP(n_players, pairing_trick=True, random_state=seed)
    return _approximated(method, values, n_players, budget)


def shapiq_svarm(values: Values, n_players: int, budget: int, seed: int) -> Floats:
    """Means of values with and without a player, by size."""
    from shapiq.approximator import SVARM

    method = SVARM(n_players, random_state=seed)
    return _approximated(method, values, n_players, budget)


def _forward(values: Values) -> Callable[[Tensor], Tensor]:
    return lambda coalitions: torch.from_numpy(values(coalitions.numpy() > 0.5))


def _row(found: Tensor) -> Floats:
    return found[0].double().numpy()


def _approximated(method: Approximator[Any], values: Values, n_players: int, budget: int) -> Floats:
    def game(coalitions: npt.NDArray[np.bool_]) -> Floats:
        return values(np.atleast_2d(coalitions).astype(bool))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = method.approximate(budget, game)
    return np.array([found[(player,)] for player in range(n_players)])
