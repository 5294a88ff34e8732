"""Distillation: least squares, then a short training towards the unpruned network's predictions.

No labels are needed: the loss is the divergence from what the unpruned network predicts. Batch
norms keep their statistics and dropouts stay off, since so few images would only spoil the ones and
feed noise to the others. Training stops when the divergence on held-out images has not fallen for a
while, and the best weights seen there are kept.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from graphprune.coalition import stays
from graphprune.data import Batch, CalibrationBatches
from graphprune.errors import DataError
from graphprune.fidelity import Judge
from graphprune.game.evaluation import class_units, filled_up, passes_of
from graphprune.game.value import class_logits, minus_kl
from graphprune.repairs.least_squares import least_squares
from graphprune.repairs.origin import unpruned_like
from graphprune.repairs.registry import Outcome, RepairJob, register

RATE = 3e-4
"""Adam's step size."""

MOST_STEPS = 400
LOOK_EVERY = 10
PATIENCE = 5
"""Looks at the held-out images without a better divergence, after which training ends."""


@register("distill", guarded=True)
def distill(job: RepairJob) -> Outcome:
    """Refit all layers, then train all of them together."""
    if job.judge is None:
        raise DataError(
            "repair 'distill' compares predictions on held-out images to know when to stop; there "
            f"are no predictions, or {job.data.n_images} images are too few to hold some out",
            hint="use 32 images or more, or --repair least-squares",
        )
    refitted = least_squares(job)
    parameters = [p for p in job.model.parameters() if p.is_floating_point()]
    asked = [p.requires_grad for p in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_()
        steps = _train(job, parameters, job.judge)
    finally:
        for parameter, wanted in zip(parameters, asked, strict=True):
            parameter.requires_grad_(wanted)
            parameter.grad = None
    note = f"trained for {steps} steps" if steps else "training did not help"
    return Outcome(notes=(*refitted.notes, note), layers=refitted.layers)


def _train(job: RepairJob, parameters: list[nn.Parameter], judge: Judge) -> int:
    """Train until it helps no more; return the number of steps that the best weights took."""
    kept = job.source.kept
    lessons = _Lessons(job)
    adam = torch.optim.Adam(parameters, lr=RATE)
    best, best_step = judge.judge(job.model, kept).kl, 0
    weights = [p.detach().clone() for p in parameters]
    for step in range(1, MOST_STEPS + 1):
        with torch.enable_grad():
            adam.zero_grad()
            lessons.loss().backward()
        adam.step()
        if step % LOOK_EVERY:
            continue
        kl = judge.judge(job.model, kept).kl
        if kl < best:
            best, best_step = kl, step
            weights = [p.detach().clone() for p in parameters]
        job.progress("distillation steps", step, MOST_STEPS)
        if step - best_step >= PATIENCE * LOOK_EVERY:
            break
    for parameter, found in zip(parameters, weights, strict=True):
        parameter.copy_(found)
    return best_step


class _Lessons:
    """Batches of images with what the unpruned network predicts, in random order."""

    def __init__(self, job: RepairJob) -> None:
        graph, kept = job.source.graph, job.source.kept
        self._graph, self._model = graph, job.model
        size = min(passes_of(graph), max(job.data.n_images // 2, 1))
        self._data = job.data.rebatched(size)
        self._generator = torch.Generator().manual_seed(job.seed)
        units = class_units(graph)
        self._classes = None if units is None else torch.from_numpy(stays(units, kept))
        self._references = self._predictions(unpruned_like(job.model, graph), self._data)
        self._order: Iterator[int] = iter(())

    def loss(self) -> Tensor:
        """Return the divergence on the next batch."""
        index = next(self._order, None)
        if index is None:
            drawn = torch.randperm(len(self._data.batches), generator=self._generator)
            self._order = iter(drawn.tolist())
            index = next(self._order)
        logits = self._run(self._model, self._data.batches[index])
        return -minus_kl(logits, self._references[index], None).mean()

    def _predictions(self, module: nn.Module, data: CalibrationBatches) -> list[Tensor]:
        found = [self._run(module, batch) for batch in data]
        if self._classes is None:
            return found
        return [logits[..., self._classes.to(logits.device)] for logits in found]

    def _run(self, module: nn.Module, batch: Batch) -> Tensor:
        outputs = module(*(filled_up(self._graph, x) for x in batch.inputs))
        return class_logits(pytree.tree_leaves(outputs))[: batch.n_images]
