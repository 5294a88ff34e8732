"""BatchNorm re-estimation: means and variances of what really passes through the smaller network.

Removing channels shifts what the later layers receive, while BatchNorm goes on subtracting the old
mean. One pass over calibration images measures the new ones. As in training, each norm divides by
the statistics of its own batch meanwhile, so that later norms see repaired inputs. The moments are
pooled over all images, so the result is that of one big batch for everything before the first
norm, and does not depend on how the last, smaller batch is weighted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from graphprune.repairs.registry import Outcome, RepairJob, register
from graphprune.surgery import PrunedModel

_aten = torch.ops.aten

_EPS_POSITION: dict[Any, int] = {
    _aten.batch_norm.default: 7,
    _aten._native_batch_norm_legit_no_training.default: 6,
}
"""Ops that normalise by running statistics (arguments 3 and 4), and the place of their epsilon."""

_CONSTANT = 1e-12
"""A channel whose variance falls below this share of the old one is constant on these images."""


@register("batchnorm", settled=True)
def reestimate(job: RepairJob) -> Outcome:
    """Set running means and variances to those of the calibration images."""
    norms = _norms(job.model)
    if not norms:
        note = "the network has no BatchNorm with running statistics; nothing was repaired"
        return Outcome(notes=(note,))
    walk = _Walk(job.model, norms)
    for batch in job.data:
        walk.run(*_flat(job.model, batch.inputs))
    kept = sum(moments.store() for moments in {id(m): m for m in norms.values()}.values())
    notes = [f"BatchNorm statistics re-estimated on {job.data.n_images} images"]
    if kept:
        notes.append(f"{kept} channels are constant on these images and keep their variance")
    return Outcome(notes=tuple(notes))


def has_statistics(model: PrunedModel) -> bool:
    """Whether a network has anything that :func:`reestimate` could set."""
    return bool(_norms(model))


@dataclass(eq=False)
class _Moments:
    """Mean and variance per channel, over everything seen so far (Chan, Golub and LeVeque 1979).

    Args:
        running_mean: Buffer that the result goes to.
        running_var: The other one.
    """

    running_mean: Tensor
    running_var: Tensor

    def __post_init__(self) -> None:
        self._count = 0
        self._mean = torch.zeros_like(self.running_mean, dtype=torch.float64)
        self._squares = torch.zeros_like(self._mean)

    def add(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Take in a batch (N, C, ...) and return its own mean and biased variance."""
        dims = [dim for dim in range(x.dim()) if dim != 1]
        variance, mean = torch.var_mean(x.double(), dims, correction=0)
        count = x.numel() // x.shape[1]
        total = self._count + count
        shift = mean - self._mean
        self._squares += variance * count + shift.square() * (self._count * count / total)
        self._mean += shift * (count / total)
        self._count = total
        return mean, variance

    def store(self) -> int:
        """Write the result; return how many channels keep their variance for being constant."""
        variance = self._squares / max(self._count - 1, 1)  # unbiased, as torch's running one
        constant = variance <= _CONSTANT * self.running_var
        self.running_mean.copy_(self._mean)
        self.running_var.copy_(torch.where(constant, self.running_var.double(), variance))
        return int(constant.sum())


class _Walk(fx.Interpreter):
    """Runs a network with every norm on the statistics of its own batch."""

    def __init__(self, model: PrunedModel, norms: Mapping[str, _Moments]) -> None:
        super().__init__(model)
        self._norms = norms
        self._current = ""

    def run_node(self, n: fx.Node) -> Any:
        self._current = n.name
        return super().run_node(n)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        moments = self._norms.get(self._current)
        if moments is None:
            return super().call_function(target, args, kwargs)
        x, eps = args[0], args[_EPS_POSITION[target]]
        mean, variance = (value.to(x.dtype) for value in moments.add(x))
        made = torch.batch_norm(x, args[1], args[2], mean, variance, False, 0.0, eps, False)
        return made if target is _aten.batch_norm.default else (made, mean, variance)


def _norms(model: PrunedModel) -> dict[str, _Moments]:
    """Return, by node, where its moments are gathered; norms that share buffers share them."""
    shared: dict[int, _Moments] = {}
    found = {}
    for node in model.graph.nodes:
        if node.target not in _EPS_POSITION or not _reads_statistics(node):
            continue
        mean, variance = (model.get_buffer(str(node.args[place].target)) for place in (3, 4))
        found[node.name] = shared.setdefault(id(mean), _Moments(mean, variance))
    return found


def _reads_statistics(node: fx.Node) -> bool:
    return all(
        isinstance(node.args[place], fx.Node) and node.args[place].op == "get_attr"  # type: ignore[union-attr]
        for place in (3, 4)
    )


def _flat(model: PrunedModel, inputs: tuple[Tensor, ...]) -> tuple[Any, ...]:
    """Return inputs in the structure that the network takes."""
    return tuple(pytree.tree_unflatten(inputs, model.signature.structure))
