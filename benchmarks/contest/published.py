"""The published algorithm in plain PyTorch: units are removed one at a time in random orders.

Every coalition is one forward pass of the model, with hooks that zero the removed channels where
they are read; or, in the partial variant, one pass from the first layer that reads them on, what
lies before having been computed once.

References:
    Ancona, Öztireli and Gross (2020), arXiv 2006.01795, section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from benchmarks.contest.metrics import Floats
from benchmarks.networks import Network
from graphprune.groups import PruningGroup

Orders = npt.NDArray[np.int64]

BATCH = 64
"""Images in one pass; the fastest on CPUs among those tried up to 256."""


@dataclass(frozen=True)
class Readers:
    """The layers that read a group's channels.

    Args:
        units: Unit of every input channel of each layer, -1 for channels of no unit; by the name of
            the layer, in execution order.
        n_units: How many units there are.
    """

    units: Mapping[str, npt.NDArray[np.int64]]
    n_units: int

    @property
    def first(self) -> str:
        """The layer that is executed first."""
        return next(iter(self.units))


def readers_of(group: PruningGroup, network: Network) -> Readers:
    """Return who reads the channels of a group."""
    found = {}
    for member in group.members:
        if member.role == "consumer":
            local = member.units - group.first
            outside = (local < 0) | (local >= group.n_units)
            found[member.parameter.rpartition(".")[0]] = np.where(outside, -1, local)
    order = [name for name, _ in network.named_modules() if name in found]
    return Readers({name: found[name] for name in order}, group.n_units)


def orders_of(seed: int, count: int, n_units: int) -> Orders:
    """Return random orders of removal, (count, n_units); the first ones do not depend on count."""
    drawn = [np.random.default_rng([seed, k, 1]).permutation(n_units) for k in range(count)]
    return np.array(drawn, np.int64)


def play(network: Network, images: Tensor, readers: Readers, orders: Orders, how: str) -> Floats:
    """Return every unit's mean marginal per image, (n_images, n_units).

    Args:
        network: In eval mode.
        images: Normalised.
        readers: Who reads the units.
        orders: Orders of removal, (n_orders, n_units).
        how: ``full`` or ``partial``.
    """
    with torch.no_grad():
        parts = [_play_batch(network, batch, readers, orders, how) for batch in images.split(BATCH)]
    return np.concatenate(parts)


def _play_batch(
    network: Network, images: Tensor, readers: Readers, orders: Orders, how: str
) -> Floats:
    state: tuple[Tensor, ...] = (images,)
    forward: Callable[..., Tensor] = network
    if how == "partial":
        cut = network.cut(readers.first)
        state, forward = cut.before(images), cut.after
    marginals = torch.zeros(len(images), readers.n_units, dtype=torch.float64)
    expected = forward(*state).log_softmax(1)
    for order in orders.tolist():
        present = torch.ones(readers.n_units + 1)
        before = torch.zeros(len(images), dtype=torch.float64)
        with closed(network, readers, present):
            for unit in order:
                present[unit] = 0
                worth = minus_kl(forward(*state), expected)
                marginals[:, unit] += before - worth
                before = worth
    found: Floats = (marginals / len(orders)).numpy()
    return found


def minus_kl(logits: Tensor, expected: Tensor) -> Tensor:
    """Return minus the divergence from the log-probabilities expected, (n_images,)."""
    return -(expected.exp() * (expected - logits.log_softmax(1))).sum(1).double()


@contextmanager
def closed(network: Network, readers: Readers, present: Tensor) -> Iterator[None]:
    """Zero what readers read of absent units.

    Args:
        network: The network.
        readers: Who reads the units.
        present: (n_units + 1,), read at every pass; the last entry is 1.
    """
    hooks = []
    for name, units in readers.units.items():
        # Channels of no unit, -1, read the last entry.
        places = torch.from_numpy(units)

        def close(
            layer: nn.Module, inputs: tuple[Tensor, ...], places: Tensor = places
        ) -> tuple[Tensor, ...]:
            del layer
            (x,) = inputs
            return (x * present[places].reshape(-1, *(1 for _ in x.shape[2:])),)

        hooks.append(network.get_submodule(name).register_forward_pre_hook(close))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def replay(values: Callable[[Tensor], Tensor], orders: Orders) -> Floats:
    """Return what :func:`play` does, for a game instead of a network."""
    n_units = orders.shape[1]
    total: Floats = np.zeros(())
    for order in orders:
        place = np.argsort(order)
        # Row k lacks the first k units of the order.
        kept = torch.from_numpy(place[None] >= np.arange(n_units + 1)[:, None])
        worth = values(kept).numpy()
        marginals = np.empty((worth.shape[1], n_units))
        marginals[:, order] = -np.diff(worth, axis=0).T
        total = total + marginals / len(orders)
    return total
