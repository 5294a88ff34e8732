"""The user's own values and criteria, checked before and after they are asked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from graphprune.criteria.request import RankRequest, Scored, ValueFunction
from graphprune.errors import OptionError
from graphprune.functions import UserFunction, is_spec, user_function
from graphprune.game.evaluation import filled_up
from graphprune.game.value import PERFORMANCES, UserValue, Value, class_logits
from graphprune.ranking import Scores


def own_value(given: str | ValueFunction | None) -> Value | None:
    """Return the value to play; names that cannot be a function's are checked with the options."""
    if given is None or (isinstance(given, str) and (given in PERFORMANCES or not is_spec(given))):
        return given
    return UserValue(user_function(given))


def probed(request: RankRequest) -> RankRequest:
    """Try a value of the user's own on a few images before the long work."""
    if not isinstance(request.value, UserValue) or request.data is None:
        return request
    graph = request.graph
    batch = request.data.head(graph.batch_size).batches[0]
    with torch.inference_mode():
        outputs = graph.program.module(*(filled_up(graph, x) for x in batch.inputs))
    reference = class_logits(pytree.tree_leaves(outputs))[: batch.n_images]
    # Copies: gradients are asked for, and inference mode has made the outputs.
    return replace(request, value=request.value.probed(reference.clone(), batch.labels))


def as_scored(found: object, source: UserFunction, request: RankRequest) -> Scored:
    """Return what a criterion of the user's own answered, if it is an answer.

    Raises:
        OptionError: It is none.
    """
    if not isinstance(found, Scored):
        found = Scored(scores=_as_floats(found, source))
    found = replace(found, scores=_as_floats(found.scores, source))
    if found.stderr is not None:
        found = replace(found, stderr=_as_floats(found.stderr, source))
    expected = (request.graph.n_units,)
    for numbers in (found.scores, found.scores if found.stderr is None else found.stderr):
        if numbers.shape != expected:
            raise OptionError(
                f"criterion {source.name!r} returned scores of shape {numbers.shape}; the network "
                f"has {expected[0]} units, so {expected} is wanted",
                hint="one score per unit of all groups, in the order of request.graph.groups",
            )
        if not np.isfinite(numbers).all():
            raise OptionError(
                f"criterion {source.name!r} returned scores that are not finite",
                hint="score every unit by a number; `left_alone` of Scored names groups to leave",
            )
    return found


def _as_floats(found: object, source: UserFunction) -> Scores:
    array = found.detach().cpu().double().numpy() if isinstance(found, Tensor) else found
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        raise OptionError(
            f"criterion {source.name!r} returned an object of type {type(found).__name__}",
            hint="return a tensor or an array of one number per unit, or a "
            "graphprune.criteria.Scored",
        )
    return array.astype(np.float64)
