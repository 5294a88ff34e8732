"""Recurrent layers: a hidden unit is the same row of every gate and the same column of the state.

All layers and directions of one call share the width of their states, so the k-th units of all of
them go together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphprune.labels.algebra import contract, merge, select
from graphprune.labels.coupler import ArgumentPath
from graphprune.labels.value import Value, permute, reshape
from graphprune.ops.passing import across
from graphprune.ops.registry import OpCall, UnsupportedCall, rule

# ---- single steps -------------------------------------------------------------------------------


@rule("aten.lstm_cell.default")
def lstm_cell(call: OpCall) -> tuple[Value, ...]:
    """One step of an LSTM: its gates, hidden and cell state."""
    hidden, memory = call.get(1)
    state = _step(call, (1, 0), hidden, [memory])
    return state, state


@rule("aten.gru_cell.default")
def gru_cell(call: OpCall) -> Value:
    """One step of a GRU, which passes part of its state on."""
    return _step(call, (1,), call.value(1), [call.value(1)])


@rule("aten.rnn_tanh_cell.default", "aten.rnn_relu_cell.default")
def plain_cell(call: OpCall) -> Value:
    """One step of a plain recurrent layer."""
    return _step(call, (1,), call.value(1), [])


def _step(call: OpCall, path: ArgumentPath, hidden: Value, passing: list[Value]) -> Value:
    """Unite the gates that read the input and those that read the state, and what passes."""
    call.coupler.gate((0,), -1)
    call.coupler.gate(path, -1)
    made = [_project(call, call.value(0), call.value(2)), _project(call, hidden, call.value(3))]
    biases = [bias for bias in (call.optional(4), call.optional(5)) if bias is not None]
    width = call.shape[-1]
    gates = [gate for value in (*made, *biases) for gate in _gates(call, value, width)]
    return merge(call.coupler, [*gates, *passing], call.shape)


def _project(call: OpCall, value: Value, weight: Value) -> Value:
    """Matrix product of (..., in) with a weight (out, in)."""
    _report_roles(call, weight)
    shape = (*value.shape[:-1], weight.shape[0])
    return contract(call.coupler, value, permute(weight, (1, 0)), shape)


def _report_roles(call: OpCall, weight: Value) -> None:
    for factor in weight.along(0):
        call.coupler.produce(factor)
    for factor in weight.along(1):
        call.coupler.consume(factor)


def _gates(call: OpCall, value: Value, width: int) -> list[Value]:
    """Take (..., gates * width) apart into gates, each (..., width)."""
    dim, count = value.rank - 1, value.shape[-1] // width
    split = reshape(value, (*value.shape[:-1], count, width))
    return [select(call.coupler, split, dim, k) for k in range(count)]


# ---- whole sequences ----------------------------------------------------------------------------

_STEPS: dict[str, Callable[..., Any]] = {
    "aten.lstm.input": torch.ops.aten.lstm_cell.default,
    "aten.gru.input": torch.ops.aten.gru_cell.default,
    "aten.rnn_tanh.input": torch.ops.aten.rnn_tanh_cell.default,
    "aten.rnn_relu.input": torch.ops.aten.rnn_relu_cell.default,
}


@rule(*_STEPS)
def sequence(call: OpCall) -> tuple[Value, ...]:
    """Layers that run over time: features are read, hidden units go together in all layers."""
    inputs, states = call.value(0), call.get(1)
    several = isinstance(states, (list, tuple))
    listed = list(states) if several else [states]
    layers, directions = int(call.get(4)), 2 if call.get(7) else 1
    weights = _per_direction(call, layers * directions)
    call.coupler.gate((0,), -1)
    kernel = _unrolled(_STEPS[call.name], several=several)
    call.coupler.statistic((1, 0) if several else (1,), (2,), kernel)
    read = _last(call, inputs, "time or batch of a recurrent layer")
    hidden = merge(
        call.coupler,
        [_last(call, state, "layers of a recurrent state") for state in listed],
        listed[0].shape[-1:],
    )
    for layer in range(layers):
        for group in weights[layer * directions : (layer + 1) * directions]:
            _layer(call, read, hidden, group)
        read = Value((directions * hidden.shape[0],), _tiled(hidden, directions))
    made = [read] + [hidden] * len(listed)
    return tuple(_on_last(value, shape) for value, shape in zip(made, call.shapes, strict=True))


def _per_direction(call: OpCall, count: int) -> list[list[Value]]:
    """Return weights that read and carry, and biases, of every layer and direction."""
    parameters, each = list(call.get(2)), 4 if call.get(3) else 2
    if len(parameters) != each * count or call.value(0).rank != 3:
        raise UnsupportedCall("a recurrent layer with projections, or without a batch")
    return [parameters[each * k : each * (k + 1)] for k in range(count)]


def _last(call: OpCall, value: Value, reason: str) -> Value:
    """Return the vector of the last dim, pin what lies along the others."""
    passed = across(call, value, range(value.rank - 1), reason)
    return Value(value.shape[-1:], tuple(factor.reshape(-1) for factor in passed))


def _layer(call: OpCall, read: Value, hidden: Value, weights: Sequence[Value]) -> None:
    reading, carrying, *biases = weights
    for weight, given in ((reading, read), (carrying, hidden)):
        _report_roles(call, weight)
        columns = Value(given.shape, tuple(f.reshape(-1) for f in weight.along(1)))
        merge(call.coupler, [given, columns], given.shape)
    width = hidden.shape[0]
    for value in (reading, carrying, *biases):
        rows = Value(value.shape[:1], tuple(f.reshape(-1) for f in value.along(0)))
        merge(call.coupler, [hidden, *_gates(call, rows, width)], hidden.shape)


def _tiled(value: Value, count: int) -> tuple[Any, ...]:
    return tuple(np.tile(factor, count) for factor in value.factors)


def _on_last(value: Value, shape: tuple[int, ...]) -> Value:
    return Value(shape, tuple(f.reshape(*[1] * (len(shape) - 1), -1) for f in value.factors))


def _unrolled(step: Callable[..., Any], *, several: bool) -> Callable[..., Any]:
    """Return a kernel that runs a layer step by step, absent units carrying zeros."""

    def masked_recurrence(mask: Tensor, x: Tensor, states: Any, *arguments: Any) -> Any:
        parameters, has_biases, layers, _, _, bidirectional, batch_first = arguments
        each, directions = 4 if has_biases else 2, 2 if bidirectional else 1
        kept, time = mask[0].to(x.dtype), 1 if batch_first else 0
        steps, ends = list(x.unbind(time)), []
        for layer in range(layers):
            made = []
            for k in range(layer * directions, (layer + 1) * directions):
                first = [s[k] for s in states] if several else states[k]
                weights = parameters[each * k : each * (k + 1)]
                backward = k % directions == 1
                ran, end = _run(step, steps, first, weights, kept, backward=backward)
                made.append(ran)
                ends.append(end)
            steps = [torch.cat(parts, -1) for parts in zip(*made, strict=True)]
        return (torch.stack(steps, time), *map(torch.stack, zip(*ends, strict=True)))

    return masked_recurrence


def _run(
    step: Callable[..., Any],
    steps: Sequence[Tensor],
    state: Any,
    weights: Sequence[Tensor],
    kept: Tensor,
    *,
    backward: bool,
) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """Run one direction of one layer; return what every step makes, and the last state."""
    made: list[Tensor] = []
    several = isinstance(state, list)
    for x in reversed(steps) if backward else steps:
        carried = [part * kept for part in state] if several else state * kept
        found = step(x, carried, *weights)
        state = list(found) if several else found
        made.append((found[0] if several else found) * kept)
    end = tuple(state) if several else (state,)
    return (made[::-1] if backward else made), end
