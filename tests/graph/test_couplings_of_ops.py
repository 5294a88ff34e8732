"""Single ops in their many forms, each in a small network around it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers import assert_exact, assert_samplewise


class Around(nn.Module):
    """``Linear(6, 8) -> something -> Linear(width, 3)`` on (batch, 5, 6)."""

    def __init__(self, op: Callable[[Tensor], Tensor], width: int) -> None:
        super().__init__()
        self.op = op
        self.up, self.other = nn.Linear(6, 8), nn.Linear(6, 8)
        self.out = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.op(self.up(x)))


Form = tuple[Callable[[Tensor], Tensor], int, int]
"""Op, width after it, units of ``up``."""


def zeros_beside(x: Tensor) -> Tensor:
    return torch.cat([x, x.new_zeros(x.shape[0], 5, 2)], -1)


def upper(x: Tensor) -> Tensor:
    return x.transpose(1, 2).unsqueeze(2).expand(-1, -1, 5, -1).triu().sum(2).transpose(1, 2)


def without_first_token(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, 0] = 0
    return x


def without_some_tokens(x: Tensor) -> Tensor:
    x, positive = x.clone(), x.sum(-1) > 0
    x[positive] = 0
    return x


def first_of(x: Tensor) -> Tensor:
    """Return the token with the largest sum of every sample, as (batch, 1, width)."""
    return x[torch.arange(x.shape[0]), x.sum(-1).argmax(1)][:, None]


def order(x: Tensor) -> Tensor:
    """Number the tokens by their sum, for ``gather`` along the tokens: (batch, 5, 1)."""
    return x.sum(-1, keepdim=True).argsort(1)


def sincos(x: Tensor) -> Tensor:
    """Turn neighbouring columns as complex numbers, by an angle per token."""
    turned = torch.polar(torch.ones(5, 1, dtype=x.dtype), torch.arange(5.0, dtype=x.dtype)[:, None])
    pairs = torch.view_as_complex(x.unflatten(-1, (4, 2)).contiguous())
    return torch.view_as_real(pairs * turned).flatten(2)


OPS: dict[str, Form] = {
    "squeeze all": (lambda x: x.mean(1, keepdim=True).squeeze().unsqueeze(1), 8, 8),
    "squeeze a wide dim": (lambda x: x.squeeze(2).squeeze((1, 2)), 8, 8),
    "view_as": (lambda x: x.flatten(1).view_as(x), 8, 8),
    "reshape_as itself": (lambda x: x.reshape_as(x.relu()), 8, 8),
    "expand_as": (lambda x: x * x.amax(-1, keepdim=True).expand_as(x), 8, 8),
    "expand by -1": (lambda x: x[:, :1].expand(-1, 5, -1), 8, 8),
    "broadcast_to": (lambda x: torch.broadcast_to(x[:, :1], x.shape), 8, 8),
    "repeat": (lambda x: x.repeat(1, 1, 3), 24, 8),
    "repeat_interleave": (lambda x: x.repeat_interleave(3, -1), 24, 8),
    "new_zeros": (zeros_beside, 10, 8),
    "triu over tokens": (upper, 8, 8),
    "tensor_split": (lambda x: torch.cat(x.tensor_split((3, 5), -1)[::-1], -1), 8, 8),
    "tensor_split sections": (lambda x: torch.cat(x.tensor_split(3, -1)[::-1], -1), 8, 8),
    "split size": (lambda x: torch.cat(x.split(3, -1)[::-1], -1), 8, 8),
    "unbind": (lambda x: torch.stack(x.unflatten(-1, (2, 4)).unbind(2), 2).flatten(2), 8, 4),
    "narrow": (lambda x: x.narrow(-1, 2, 5), 5, 8),
    "negative slice": (lambda x: torch.cat([x[..., -3:], x[..., :-3]], -1), 8, 8),
    "pad tokens": (lambda x: F.pad(x, (0, 0, 1, 1))[:, 1:-1], 8, 8),
    "pad with one": (lambda x: F.pad(x, (1, 2), value=1.0), 11, 8),
    "movedim": (lambda x: x.movedim((1, 2), (2, 1)).mT, 8, 8),
    "unflatten": (lambda x: x.unflatten(-1, (-1, 2)).flatten(-2), 8, 4),
    "index tokens": (lambda x: x[:, torch.tensor([0, 2, 4])], 8, 8),
    "permuted by a constant": (
        lambda x: x[..., torch.tensor([3, 1, 0, 2, 7, 5, 4, -2])],
        8,
        8,
    ),
    "picked twice by a constant": (
        lambda x: x.index_select(-1, torch.tensor([3, 1, 1, 0, 5])),
        5,
        8,
    ),
    "strided slice": (lambda x: x[..., 1::2], 4, 8),
    "strided slices joined": (lambda x: torch.cat([x[..., 1::2], x[..., ::2]], -1), 8, 8),
    "where": (lambda x: torch.where(x > 0, x, 0.1 * x), 8, 8),
    "masked_fill": (lambda x: x.masked_fill(x > 0.5, 0.5), 8, 8),
    "type_as": (lambda x: x.float().type_as(x), 8, 8),
    "min": (lambda x: x + x.min(-1, keepdim=True)[0], 8, 8),
    "max of all": (lambda x: x / x.max(), 8, 8),
    "variance": (lambda x: x / (1 + x.var(-1, keepdim=True, correction=0)), 8, 8),
    "norm": (lambda x: x / x.norm(dim=-1, keepdim=True), 8, 8),
    "normalize": (lambda x: F.normalize(x, p=1, dim=-1), 8, 8),
    "sum": (lambda x: x + x.sum((1, 2), keepdim=True), 8, 8),
    "log_softmax": (lambda x: F.log_softmax(x, -1), 8, 8),
    "batch statistics": (
        lambda x: F.batch_norm(x.mT, None, None, training=True).mT,
        8,
        8,
    ),
    "layer norm over two dims": (lambda x: F.layer_norm(x, (5, 8)), 8, 8),
}


MOVING: dict[str, Form] = {
    "roll": (lambda x: x.roll(3, -1), 8, 8),
    "roll two dims": (lambda x: x.roll((-2, 1), (-1, 1)), 8, 8),
    "crop": (lambda x: F.pad(x, (-2, -1)), 5, 8),
    "crop and pad": (lambda x: F.pad(x, (-2, 3)), 9, 8),
    "pad and crop": (lambda x: F.pad(x, (1, -3)), 6, 8),
    "reflect tokens": (lambda x: F.pad(x.mT, (1, 1), mode="reflect").mT[:, 1:-1], 8, 8),
    "replicate tokens": (lambda x: F.pad(x.mT, (2, 1), mode="replicate").mT[:, :5], 8, 8),
    "wrap tokens": (lambda x: F.pad(x.mT, (1, 1), mode="circular").mT[:, 1:6], 8, 8),
    "hsplit": (lambda x: torch.cat(x[:, 0].hsplit([3, 5])[::-1], 1)[:, None], 8, 8),
    "dsplit in two": (lambda x: torch.cat(x.dsplit(2)[::-1], 2), 8, 8),
    "dstack": (lambda x: torch.dstack([x, x.tanh()]), 16, 8),
    "hstack": (lambda x: torch.hstack([x, x.tanh()])[:, 3:8], 8, 8),
    "hstack columns": (lambda x: torch.hstack([x[:, 0], x[:, 1]])[:, None], 16, 8),
    "column_stack": (lambda x: torch.column_stack([x[:, 0], x[:, 1]])[:, None], 16, 8),
    "vstack": (lambda x: torch.vstack([x, x])[: x.shape[0]], 8, 8),
    "concatenate": (lambda x: torch.concatenate([x, x], -1), 16, 8),
    "tile": (lambda x: x.tile(2), 16, 8),
    "copies by repeat": (lambda x: x * x.mean(-1, keepdim=True).repeat(1, 1, 8), 8, 8),
    "copies by expand": (lambda x: x * x.mean(-1, keepdim=True).expand(-1, -1, 8), 8, 8),
    "broadcast_tensors": (lambda x: sum(torch.broadcast_tensors(x, x[:, :1])), 8, 8),
    # A vector of tokens is picked at column 0, which so has to stay.
    "meshgrid": (
        lambda x: x + sum(torch.meshgrid(x[0, :, 0], x[0, 0], indexing="ij")),
        8,
        7,
    ),
    # A turned plane: columns of 4 go, since rows of 2 land on tokens.
    "rot90": (lambda x: x.unflatten(-1, (4, 2)).rot90(1, (2, 3)).flatten(2), 8, 4),
    "fliplr": (lambda x: x.mT.fliplr().mT, 8, 8),
    "swapdims": (lambda x: x.swapdims(1, 2).moveaxis(1, 2), 8, 8),
    "ravel": (lambda x: x.ravel().view(-1, 5, 8), 8, 8),
    "atleast": (lambda x: torch.atleast_3d(torch.atleast_2d(torch.atleast_1d(x))), 8, 8),
    "sliding windows": (lambda x: F.pad(x, (0, 0, 1, 1)).unfold(1, 3, 1).sum(-1), 8, 8),
    "diagonal": (lambda x: x[:, :, None].expand(-1, -1, 5, -1).diagonal(0, 1, 2).mT, 8, 8),
    "diag_embed": (lambda x: x @ x[:, 0].diag_embed(), 8, 8),
    "new_zeros with batch": (lambda x: x + x.new_zeros(x.shape[0], 5, 8), 8, 8),
    "full with batch": (lambda x: x * torch.full((x.shape[0], 1, 8), 2.0, dtype=x.dtype), 8, 8),
    "zeros_like": (lambda x: x + torch.zeros_like(x), 8, 8),
    # Neighbours are one complex number.
    "complex pairs": (sincos, 8, 4),
}

PICKING: dict[str, Form] = {
    "gather by expand": (lambda x: x.gather(1, order(x).expand(-1, -1, 8)), 8, 8),
    "gather by repeat": (lambda x: x.gather(1, order(x)[:, :3].repeat(1, 1, 8)), 8, 8),
    "gather by itself": (lambda x: x.gather(1, x.argsort(1)), 8, 8),
    "gather the first columns": (lambda x: x.gather(1, x.argsort(1)[:, :, :4]), 4, 0),
    "scatter": (lambda x: x.scatter(1, x.argmax(1, keepdim=True), 0.5), 8, 8),
    "scatter_add": (lambda x: x.scatter_add(1, x.argsort(1), x.tanh()), 8, 8),
    "index_add": (lambda x: x.index_add(1, torch.tensor([0, 2]), x[:, 3:]), 8, 8),
    "index_copy": (lambda x: x.index_copy(1, torch.tensor([0, 2]), x[:, 3:]), 8, 8),
    "index_fill": (lambda x: x.index_fill(1, torch.tensor([0, 2]), 1.0), 8, 8),
    "index_put": (
        lambda x: x.index_put((torch.arange(x.shape[0]), x.sum(-1).argmax(1)), x[:, 0]),
        8,
        8,
    ),
    "index by argmax": (first_of, 8, 8),
    "write a token": (without_first_token, 8, 8),
    "write by a mask": (without_some_tokens, 8, 8),
    "one_hot": (
        lambda x: F.one_hot(x.sum(-1).argmax(1), 5).to(x.dtype)[:, None] @ x,
        8,
        8,
    ),
    "bucketize": (lambda x: x * torch.bucketize(x, torch.tensor([-1.0, 0.0, 1.0])), 8, 8),
}

ORDERS: dict[str, Form] = {
    "cumsum": (lambda x: x.cumsum(-1), 8, 8),
    "cumsum of tokens": (lambda x: x.cumsum(1), 8, 8),
    "cumprod": (lambda x: x.cumprod(-1), 8, 8),
    "cummax": (lambda x: x.cummax(-1)[0], 8, 8),
    "cummin of tokens": (lambda x: x.cummin(1)[0], 8, 8),
    "logcumsumexp": (lambda x: x.logcumsumexp(-1), 8, 8),
    "sort tokens": (lambda x: x.sort(1)[0], 8, 8),
    "topk tokens": (lambda x: x.topk(3, 1)[0], 8, 8),
    "argmax of tokens": (lambda x: x + x.argmax(1, keepdim=True), 8, 8),
    "kthvalue of tokens": (lambda x: x + x.kthvalue(2, 1, keepdim=True)[0], 8, 8),
    "median of tokens": (lambda x: x - x.median(1, keepdim=True)[0], 8, 8),
    "median of columns": (lambda x: x - x.median(-1, keepdim=True)[0], 8, 0),
    "diff of tokens": (lambda x: x.diff(dim=1), 8, 8),
    "fft of tokens": (lambda x: torch.fft.fft(x, dim=1).abs(), 8, 8),
    "fft of columns": (lambda x: torch.fft.fft(x, dim=2).abs(), 8, 0),
    "rfft of tokens": (lambda x: torch.fft.irfft(torch.fft.rfft(x, dim=1), n=5, dim=1), 8, 8),
    "fft of all": (lambda x: torch.fft.fft2(x).real, 8, 0),
}

REDUCING: dict[str, Form] = {
    "prod": (lambda x: x + x.prod(-1, keepdim=True), 8, 8),
    "any": (lambda x: x * (x > 0.8).any(-1, keepdim=True), 8, 8),
    "all": (lambda x: x * (x > -0.3).all(-1, keepdim=True), 8, 8),
    "count_nonzero": (lambda x: x + (x > 0).count_nonzero(-1)[..., None], 8, 8),
    "nansum": (lambda x: x + x.nansum(-1, keepdim=True), 8, 8),
    "nanmean": (lambda x: x - x.nanmean(-1, keepdim=True), 8, 8),
    "aminmax": (lambda x: x + sum(x.aminmax(dim=-1, keepdim=True)), 8, 8),
    "std_mean": (lambda x: x - sum(torch.std_mean(x, -1, keepdim=True, correction=0)), 8, 8),
    "var over all dims": (lambda x: x / (1 + x.var((1, 2), unbiased=False)[:, None, None]), 8, 8),
    "linalg.norm": (lambda x: x / torch.linalg.norm(x, dim=-1, keepdim=True), 8, 8),
    "norm of a matrix": (lambda x: x / torch.linalg.matrix_norm(x, keepdim=True), 8, 8),
    "norm with dtype": (lambda x: x / torch.norm(x, 1, -1, True, dtype=x.dtype), 8, 8),
    "softmin": (lambda x: F.softmin(x, -1), 8, 8),
    "cosine_similarity": (lambda x: x * F.cosine_similarity(x, x.roll(1, 1), -1)[..., None], 8, 8),
    "pairwise_distance": (lambda x: x * F.pairwise_distance(x, x.roll(1, 1), keepdim=True), 8, 8),
    "cdist": (lambda x: torch.cdist(x, x.tanh()), 5, 8),
    "cross of tokens": (lambda x: torch.cross(x[:, :3], x[:, 2:], 1), 8, 8),
    "vecdot": (lambda x: x * torch.linalg.vecdot(x, x)[..., None], 8, 8),
}

ELEMENTWISE: dict[str, Form] = {
    "logaddexp": (lambda x: torch.logaddexp(x, x.tanh()), 8, 8),
    "fmod": (lambda x: torch.fmod(x, 2), 8, 8),
    "clip": (lambda x: x.clip(-1, 1), 8, 8),
    "and": (lambda x: x * ((x > 0) & (x < 1)), 8, 8),
    "complex": (lambda x: torch.complex(x, x.tanh()).abs(), 8, 8),
    "where of scalars": (lambda x: x * torch.where(x > 0, 1.0, 0.5), 8, 8),
    "float_power": (lambda x: torch.float_power(x, 2), 8, 8),
    "isfinite": (lambda x: x * x.isfinite(), 8, 8),
    "softshrink": (F.softshrink, 8, 8),
    "rrelu": (F.rrelu, 8, 8),
    "dropout1d": (lambda x: F.dropout1d(x, training=False), 8, 8),
    "xlogy": (lambda x: torch.xlogy(x, x.exp()), 8, 8),
    "written in place": (lambda x: torch.empty_like(x).fill_(2.0).mul_(0.5) * x, 8, 8),
}

ACROSS_SAMPLES = ("max of all", "batch statistics", "meshgrid", "index_put", "vstack")
"""Forms in which samples of a batch read each other, so coalitions must not differ."""

ALL_OPS = {**OPS, **MOVING, **PICKING, **ORDERS, **REDUCING, **ELEMENTWISE}


@pytest.mark.parametrize("name", ALL_OPS)
@pytest.mark.parametrize("ratio", [0.4, 1.0])
def test_op_is_exact(name: str, ratio: float) -> None:
    op, width, units = ALL_OPS[name]
    torch.manual_seed(0)
    graph = assert_exact(Around(op, width), (torch.randn(2, 5, 6),), ratio=ratio)
    assert {g.name: len(g) for g in graph.groups} == ({"up.weight": units} if units else {})
    assert not graph.unknown_ops
    if units and name not in ACROSS_SAMPLES:
        assert_samplewise(graph)


class Weighted(nn.Module):
    """``Linear(6, 8) -> op of (batch, 5, 8) and a parameter -> Linear(width, 3)``."""

    def __init__(self, op: Callable[[Tensor, Tensor], Tensor], *shape: int) -> None:
        super().__init__()
        self.op, self.weight = op, nn.Parameter(torch.randn(shape) / math.sqrt(math.prod(shape)))
        self.up, self.out = nn.Linear(6, 8), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.op(self.up(x), self.weight))


# The parameter has 8 columns that are summed over and 4 rows that the last layer reads.
PRODUCTS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], tuple[int, ...], dict[str, int]]] = {
    "inner": (torch.inner, (4, 8), {"up.weight": 8, "weight": 4}),
    "tensordot": (lambda x, w: torch.tensordot(x, w, 1), (8, 4), {"up.weight": 8, "weight": 4}),
    # Tokens are summed over as well.
    "tensordot over two dims": (
        lambda x, w: torch.tensordot(x, w, 2)[:, None],
        (5, 8, 4),
        {"up.weight": 8, "weight": 4},
    ),
    "bilinear": (
        lambda x, w: F.bilinear(x, x.tanh(), w),
        (4, 8, 8),
        {"up.weight": 8, "weight": 4},
    ),
    "chain": (
        lambda x, w: torch.linalg.multi_dot([x[:, 0], w, w.T, w])[:, None],
        (8, 4),
        {"up.weight": 8, "weight": 4},
    ),
    "addbmm": (
        lambda x, w: x @ torch.addbmm(w, x.mT, x)[:, :4],
        (8, 8),
        {"up.weight": 8},
    ),
    "matrix times vector": (
        lambda x, w: x[..., :4] * torch.mv(x[0], w).sum(),
        (8,),
        {"up.weight": 8},
    ),
    "dot": (lambda x, w: x[..., :4] * torch.dot(x[0, 0], w), (8,), {"up.weight": 8}),
    "outer": (
        lambda x, w: x[..., :4] + torch.outer(w, x[0, 0, :4]),
        (5,),
        {"up.weight": 8},
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("ratio", [0.4, 1.0])
def test_product_is_exact(name: str, ratio: float) -> None:
    op, shape, groups = PRODUCTS[name]
    torch.manual_seed(0)
    graph = assert_exact(Weighted(op, *shape), (torch.randn(2, 5, 6),), ratio=ratio)
    assert {group.name: len(group) for group in graph.groups} == groups
    assert not graph.unknown_ops


@pytest.mark.parametrize("order", [1.0, 2.0])
def test_distance_of_whole_tensors_is_exact(order: float) -> None:
    graph = assert_exact(
        Around(lambda x: x * torch.dist(x, x.tanh(), order), 8), (torch.randn(2, 5, 6),)
    )
    assert graph.n_units == 8


@pytest.mark.parametrize("kind", [nn.functional.relu, F.gelu])
def test_a_network_made_of_weights_alone_is_exact(kind: Callable[[Tensor], Tensor]) -> None:
    """A bias computed from a table by layers of its own: those are pruned as well."""

    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Buffer(torch.randn(5, 2))
            self.a, self.b = nn.Linear(2, 9), nn.Linear(9, 4)
            self.up, self.out = nn.Linear(6, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.up(x) + self.b(kind(self.a(self.table))))

    graph = assert_exact(Table(), (torch.randn(2, 5, 6),))
    assert {group.name: len(group) for group in graph.groups} == {"a.weight": 9, "up.weight": 4}


def test_a_weight_made_by_the_network_is_exact() -> None:
    """A constant input to a layer whose weight depends on the input."""

    class Hyper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(5, 6))
            self.make, self.out = nn.Linear(4, 6), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(F.linear(self.table, self.make(x).sum(0).expand(3, -1)))

    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(5, 6))
            self.make = nn.Linear(4, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.table @ self.make(x).transpose(1, 2)

    graph = assert_exact(Product(), (torch.randn(2, 3, 4),))
    assert len(graph.groups) == 1
    assert_samplewise(graph)
    graph = assert_exact(Hyper(), (torch.randn(2, 4),))
    assert len(graph.groups) == 1


class Kernel(nn.Module):
    """Attention by one backend."""

    def __init__(self, kernel: Callable[..., tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.kernel = kernel
        self.q, self.k, self.v = nn.Linear(6, 12), nn.Linear(6, 12), nn.Linear(6, 12)
        self.out = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (2, 6)).transpose(1, 2) for f in (self.q, self.k, self.v))
        # Fixed numbers per head keep the heads, so that columns go.
        q = q * torch.tensor([1.0, 2.0], dtype=x.dtype)[:, None, None]
        return self.out(self.kernel(q, k, v)[0].transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    ("kernel", "groups"),
    [
        # It wants values as wide as queries.
        (torch.ops.aten._scaled_dot_product_flash_attention_for_cpu, {"q.weight": 6}),
        (torch.ops.aten._scaled_dot_product_attention_math, {"q.weight": 6, "v.weight": 6}),
    ],
    ids=["cpu", "math"],
)
def test_backend_of_attention_is_exact(
    kernel: Callable[..., tuple[Tensor, ...]], groups: dict[str, int]
) -> None:
    graph = assert_exact(Kernel(kernel), (torch.randn(2, 5, 6),), seeds=range(4))
    assert {group.name: len(group) for group in graph.groups} == groups
    assert_samplewise(graph)
