"""Optimizers: what one has gathered about a network's parameters, cut like the parameters.

Momentum and the moments of Adam lie entry by entry beside the parameter, and optimizers of that
kind treat every entry alone. So a pruned network whose state is sliced by the same indices goes on
as the kept entries of the whole network would.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from graphprune.coalition import Indices, kept_entries
from graphprune.errors import OptionError, SurgeryError
from graphprune.graph import DependencyGraph, Kept
from graphprune.surgery import sliced

_State = dict[Tensor, dict[str, Any]]


def hand_over(optimizer: Optimizer, graph: DependencyGraph, kept: Kept, pruned: nn.Module) -> None:
    """Let an optimizer train the pruned network from now on, with the state it has.

    Nothing of it is changed before everything is known to fit. Learning-rate schedulers hold the
    optimizer and its groups, so they go on as well.

    Args:
        optimizer: Trains the network that ``graph`` was traced from; it is changed.
        graph: The traced network.
        kept: What ``pruned`` was cut by, (n_units,) Bool.
        pruned: A network with the parameters of that cut: as cut, repaired, or sliced in place.

    Raises:
        OptionError: The optimizer trains something else, or keeps a state that cannot be sliced.
        SurgeryError: ``pruned`` has other parameters.
    """
    carried = _carried(optimizer, graph, kept, pruned)
    for group, parameters in zip(optimizer.param_groups, carried.groups, strict=True):
        group["params"] = parameters
    optimizer.state = defaultdict(dict, carried.state)


def sliced_optimizer(
    optimizer: Optimizer, graph: DependencyGraph, kept: Kept, pruned: nn.Module
) -> Optimizer:
    """Return an optimizer of the pruned network; the one given goes on training its own.

    Arguments and errors are those of :func:`hand_over`. Hooks and schedulers stay with the
    optimizer given.
    """
    carried = _carried(optimizer, graph, kept, pruned)
    ours = copy.copy(optimizer)
    ours.defaults = dict(optimizer.defaults)
    ours.param_groups = [
        {**{key: copy.copy(value) for key, value in group.items()}, "params": parameters}
        for group, parameters in zip(optimizer.param_groups, carried.groups, strict=True)
    ]
    ours.state = defaultdict(dict, carried.state)
    return ours


@dataclass(frozen=True, eq=False)
class _Carried:
    """What an optimizer of the pruned network holds.

    Args:
        groups: The parameters, group by group.
        state: What it has gathered of each, in tensors of its own.
    """

    groups: list[list[nn.Parameter]]
    state: _State


def _carried(
    optimizer: Optimizer, graph: DependencyGraph, kept: Kept, pruned: nn.Module
) -> _Carried:
    names = {id(parameter): name for name, parameter in graph.program.traced_from.items()}
    after = dict(pruned.named_parameters(remove_duplicate=False))
    groups: list[list[nn.Parameter]] = []
    state: _State = {}
    for group in optimizer.param_groups:
        groups.append([])
        for before in group["params"]:
            name = names.get(id(before))
            if name is None:
                raise _foreign(before)
            cut = _Cut(name, before, kept_entries(graph, name, kept))
            now = cut.found_in(after)
            groups[-1].append(now)
            if before in optimizer.state:
                state[now] = cut.state(optimizer.state[before], now)
    return _Carried(groups, state)


def _foreign(parameter: Tensor) -> OptionError:
    return OptionError(
        f"the optimizer trains a parameter of shape {tuple(parameter.shape)} that is not one of "
        "the model's that was traced",
        hint="trace the very model that the optimizer trains, not a copy, and keep it alive",
    )


@dataclass(frozen=True, eq=False)
class _Cut:
    """How one parameter was cut.

    Args:
        name: Its name, before and after.
        before: The parameter of the whole network.
        by_dim: The entries that remain, for every dim that shrank.
    """

    name: str
    before: nn.Parameter
    by_dim: Mapping[int, Indices]

    def found_in(self, after: Mapping[str, nn.Parameter]) -> nn.Parameter:
        """Return the parameter of the pruned network.

        Raises:
            SurgeryError: There is none of this name and shape.
        """
        sizes = dict(enumerate(self.before.shape))
        sizes.update({dim: indices.size for dim, indices in self.by_dim.items()})
        found = after.get(self.name)
        if found is None or tuple(found.shape) != tuple(sizes.values()):
            is_now = "is missing" if found is None else f"is {tuple(found.shape)}"
            raise SurgeryError(
                f"this is not the network that the plan leaves: {self.name} {is_now} instead of "
                f"{tuple(sizes.values())}",
                hint="pass what gp.prune returned for the same graph and plan",
            )
        return found

    def state(self, gathered: Mapping[str, Any], now: nn.Parameter) -> dict[str, Any]:
        """Return the state of the cut parameter, on its device."""
        return {key: self._value(key, value, now) for key, value in gathered.items()}

    def _value(self, key: str, value: object, now: nn.Parameter) -> object:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, Tensor) and value.numel() == 1:
            return value.clone()  # a count of steps, which stays on its device
        if not isinstance(value, Tensor) or not self._lies_beside(value):
            shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
            raise OptionError(
                f"the optimizer's state {key!r} of {self.name} is a {type(value).__name__}{shape}, "
                f"which does not lie entry by entry beside {tuple(self.before.shape)}",
                hint="start a new optimizer for the pruned network",
            )
        whole = {d: kept for d, kept in self.by_dim.items() if value.shape[d] > 1}
        return sliced(value, whole).to(now.device)

    def _lies_beside(self, value: Tensor) -> bool:
        """Whether every dim is the parameter's, or one where the optimizer keeps a mean."""
        pairs = zip(value.shape, self.before.shape, strict=False)
        return value.dim() == self.before.dim() and all(n in (1, whole) for n, whole in pairs)
