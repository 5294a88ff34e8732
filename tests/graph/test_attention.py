"""Attention in its many forms: heads, their columns, shared keys, rotary tables, fixed biases."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers import assert_exact, assert_samplewise

WIDTH, HEADS, HEAD = 12, 4, 6


class Attention(nn.Module):
    """``linear -> attention -> linear`` with parts that subclasses replace."""

    shared = 1
    """How many heads of queries read one head of keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(WIDTH, HEADS * HEAD)
        self.k = nn.Linear(WIDTH, HEADS // self.shared * HEAD)
        self.v = nn.Linear(WIDTH, HEADS // self.shared * HEAD)
        self.out = nn.Linear(HEADS * HEAD, 5)

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, HEAD)).transpose(1, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    def forward(self, x: Tensor) -> Tensor:
        y = self.attend(*(self.split(layer(x)) for layer in (self.q, self.k, self.v)))
        return self.out(y.transpose(1, 2).flatten(2))


def rotate_half(x: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat([-second, first], -1)


class Rotary(Attention):
    """Rotary tables of head width, made in the forward from a buffer: one for all heads."""

    def __init__(self) -> None:
        super().__init__()
        self.frequencies = nn.Buffer(torch.rand(HEAD // 2, dtype=torch.float64))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        angles = torch.arange(q.shape[-2], device=q.device)[:, None] * self.frequencies[None]
        angles = torch.cat([angles, angles], -1)
        q, k = (x * angles.cos() + rotate_half(x) * angles.sin() for x in (q, k))
        return F.scaled_dot_product_attention(q, k, v)


class RotaryPairs(Rotary):
    """The other rotary form: neighbours are turned, not halves."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        angles = torch.arange(q.shape[-2], device=q.device)[:, None] * self.frequencies[None]
        angles = angles.repeat_interleave(2, -1)

        def turned(x: Tensor) -> Tensor:
            return torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)

        q, k = (x * angles.cos() + turned(x) * angles.sin() for x in (q, k))
        return F.scaled_dot_product_attention(q, k, v)


class NormedHeads(Attention):
    """Queries and keys are normalised head by head, with one weight for all heads."""

    def __init__(self) -> None:
        super().__init__()
        self.q_norm, self.k_norm = nn.LayerNorm(HEAD), nn.RMSNorm(HEAD)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)


class GroupedQueries(Attention):
    """Two heads of queries share one of keys and values."""

    shared = 2

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


class RepeatedKeys(GroupedQueries):
    """The same by copies of the shared heads."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (x.repeat_interleave(self.shared, 1) for x in (k, v))
        return F.scaled_dot_product_attention(q, k, v)


class ExpandedKeys(GroupedQueries):
    """The same by ``expand`` and ``reshape``."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        def repeated(x: Tensor) -> Tensor:
            batch, heads, length, width = x.shape
            wide = x[:, :, None].expand(batch, heads, self.shared, length, width)
            return wide.reshape(batch, heads * self.shared, length, width)

        return F.scaled_dot_product_attention(q, repeated(k), repeated(v))


class OneSharedHead(Attention):
    """All heads of queries share one of keys and values."""

    shared = HEADS

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


class BroadcastHead(OneSharedHead):
    """The same by broadcasting."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)


class FixedBias(Attention):
    """A bias of fixed numbers per head keeps all heads: columns go instead."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        slopes = torch.tensor([0.5, 0.25, 0.125, 0.0625], dtype=q.dtype)
        bias = slopes[:, None, None] * torch.arange(k.shape[-2], device=q.device)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


class LearnedBias(Attention):
    """A learned bias per head goes with its head."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(HEADS, 7, 7))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.transpose(-1, -2) / HEAD**0.5 + self.bias
        return scores.softmax(-1) @ v


class TalkingHeads(Attention):
    """Scores are mixed over heads before and after the softmax (CaiT)."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(HEADS, HEADS), nn.Linear(HEADS, HEADS)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = self.before((q @ k.transpose(-1, -2)).permute(0, 2, 3, 1))
        weights = self.after(scores.softmax(-2))
        return weights.permute(0, 3, 1, 2) @ v


class LinearAttention(Attention):
    """Softmax over the columns of queries and over the tokens of keys."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return q.softmax(-1) @ (k.softmax(-2).transpose(-1, -2) @ v)


class CrossCovariance(Attention):
    """Attention over columns instead of tokens (XCiT)."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = F.normalize(q, dim=-2), F.normalize(k, dim=-2)
        weights = (q.transpose(-1, -2) @ k).softmax(-1)
        return (weights @ v.transpose(-1, -2)).transpose(-1, -2)


HEADS_TOGETHER = {"q.weight": HEADS}

FORMS: dict[str, tuple[type[Attention], dict[str, int]]] = {
    "plain": (Attention, HEADS_TOGETHER),
    "rotary": (Rotary, HEADS_TOGETHER),
    "rotary pairs": (RotaryPairs, HEADS_TOGETHER),
    "normed heads": (NormedHeads, HEADS_TOGETHER),
    "learned bias": (LearnedBias, HEADS_TOGETHER),
    "linear attention": (LinearAttention, HEADS_TOGETHER),
    "cross covariance": (CrossCovariance, HEADS_TOGETHER),
    "grouped queries": (GroupedQueries, {"q.weight": HEADS // 2}),
    "repeated keys": (RepeatedKeys, {"q.weight": HEADS // 2}),
    "expanded keys": (ExpandedKeys, {"q.weight": HEADS // 2}),
    # The one head of keys has columns only, and the same columns of all queries go with them.
    "one shared head": (OneSharedHead, {"q.weight": HEAD, "v.weight": HEAD}),
    "broadcast head": (BroadcastHead, {"q.weight": HEAD, "v.weight": HEAD}),
    # Columns of queries and keys, and columns of values.
    "fixed bias": (FixedBias, {"q.weight": HEAD, "v.weight": HEAD}),
    # Heads of scores, heads after the mix, heads of weights with those of values.
    "talking heads": (TalkingHeads, {"q.weight": HEADS, "before.weight": HEADS, "v.weight": HEADS}),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("ratio", [0.3, 0.7])
def test_attention_is_exact_and_grouped_as_by_hand(name: str, ratio: float) -> None:
    build, groups = FORMS[name]
    torch.manual_seed(0)
    graph = assert_exact(build(), (torch.randn(2, 7, WIDTH),), ratio=ratio, batches=(1, 2, 3))
    assert {group.name: len(group) for group in graph.groups} == groups
    assert not graph.unknown_ops
    assert_samplewise(graph)


def test_bilinear_pooling_prunes_the_larger_side() -> None:
    """An outer product, flattened: rows or columns can go, for the reader has one axis for both."""

    class Bilinear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(6, 3), nn.Linear(6, 5), nn.Linear(15, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out((self.a(x)[:, :, None] * self.b(x)[:, None]).flatten(1))

    graph = assert_exact(Bilinear(), (torch.randn(2, 6),), ratio=0.5)
    assert {group.name: len(group) for group in graph.groups} == {"b.weight": 5}
