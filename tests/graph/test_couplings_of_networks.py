"""Networks as strangers write them, each around couplings that took thought.

The expected groups are worked out by hand from the architecture.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from graphprune.export.onnx_file import export_onnx
from graphprune.graph import trace
from graphprune.inplace import prune_in_place_of
from graphprune.surgery import cut
from graphprune.verify.validation import validate
from tests.helpers import assert_exact, assert_samplewise, random_kept, randomize

Groups = dict[str, int]


def check(
    model: nn.Module,
    inputs: tuple[Any, ...],
    groups: Groups,
    *,
    shared: bool = False,
) -> None:
    """Check exactness on one sample and more, and the groups.

    Args:
        model: The network.
        inputs: Example inputs, batch of two.
        groups: Group sizes by name.
        shared: Some units live in weights that are computed once for the whole batch.
    """
    randomize(model)
    for ratio in (0.4, 1.0):
        graph = assert_exact(model, inputs, ratio=ratio, seeds=(0,), batches=(1, 2, 3))
    assert {group.name: len(group) for group in graph.groups} == groups
    assert not graph.unknown_ops
    assert graph.program.dynamic_batch
    if not shared:
        assert_samplewise(graph)


# ---- grouped convolutions, both directions ------------------------------------------------------

# in, out, groups -> groups of `conv -> grouped convolution -> conv`
GROUPED: dict[str, tuple[int, int, int, Groups]] = {
    "as many groups as channels in each": (16, 8, 4, {"0.weight": 4}),
    "wide groups": (12, 18, 2, {"0.weight": 6, "2.weight": 9}),
    "depthwise": (6, 6, 6, {"0.weight": 6}),
    "depthwise with multiplier": (6, 18, 6, {"0.weight": 6}),
    "several channels to one": (18, 6, 6, {"0.weight": 6}),
    # Each group has one output, which has to stay.
    "wide groups to one": (12, 2, 2, {"0.weight": 6}),
}


@pytest.mark.parametrize("name", GROUPED)
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("transposed", [False, True])
def test_grouped_convolution(name: str, rank: int, transposed: bool) -> None:
    inputs, outputs, n_groups, groups = GROUPED[name]
    plain = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
    across = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[rank - 1]
    build = across if transposed else plain
    torch.manual_seed(0)
    grouped = build(inputs, outputs, 3, stride=2, padding=1, groups=n_groups)
    model = nn.Sequential(plain(3, inputs, 1), nn.ReLU(), grouped, nn.ReLU(), plain(outputs, 2, 1))
    check(model, (torch.randn(2, 3, *[5] * rank),), groups)


@pytest.mark.parametrize("name", GROUPED)
def test_grouped_transposed_convolution_sliced_in_place(name: str) -> None:
    inputs, outputs, n_groups, _ = GROUPED[name]
    torch.manual_seed(0)
    grouped = nn.ConvTranspose2d(inputs, outputs, 3, groups=n_groups)
    model = nn.Sequential(nn.Conv2d(3, inputs, 1), grouped, nn.Conv2d(outputs, 2, 1)).double()
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    graph = trace(model, (x,))
    kept = random_kept(graph, 0.4, 0)
    sliced = prune_in_place_of(model, graph, kept)
    assert torch.allclose(sliced(x), cut(graph, kept)(x), atol=1e-12)
    sizes = sliced[1].weight.shape
    assert (sliced[1].in_channels, sliced[1].out_channels) == (
        sizes[0],
        sizes[1] * sliced[1].groups,
    )


class SpannedWindow(nn.Module):
    """Convolutions over words whose windows span the whole embedding (Kim's text network)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(13, 6)
        self.convs = nn.ModuleList(nn.Conv2d(1, 4, (k, 6)) for k in (2, 3))
        self.fc = nn.Linear(8, 3)

    def forward(self, words: Tensor) -> Tensor:
        x = self.embed(words).unsqueeze(1)
        parts = [F.relu(conv(x)).squeeze(3) for conv in self.convs]
        return self.fc(torch.cat([F.max_pool1d(y, y.size(2)).squeeze(2) for y in parts], 1))


class TokensAsChannels(nn.Module):
    """gMLP: a convolution of one over tokens, so that features are its positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.norm = nn.Linear(8, 8), nn.Linear(8, 20), nn.LayerNorm(10)
        self.mix, self.down, self.out = nn.Conv1d(6, 6, 1), nn.Linear(10, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        u, v = F.gelu(self.up(x)).chunk(2, -1)
        return self.out((x + self.down(u * self.mix(self.norm(v)))).mean(1))


class Modulated(nn.Module):
    """Every sample has a kernel of its own, as a group of one large convolution (StyleGAN 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.style = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(3, 6)
        self.weight = nn.Parameter(torch.randn(1, 5, 6, 3, 3))
        self.out = nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, style = x.shape[0], self.style(x.mean((2, 3)))
        weight = self.weight * style.view(n, 1, 6, 1, 1)
        weight = weight * torch.rsqrt(weight.square().sum((2, 3, 4), keepdim=True) + 1e-8)
        x = self.stem(x).reshape(1, n * 6, 8, 8)
        x = F.conv2d(x, weight.view(n * 5, 6, 3, 3), padding=1, groups=n)
        return self.out(x.view(n, 5, 8, 8).relu())


class Windows(nn.Module):
    """Padding modes of convolutions; windows cut out, reduced and added up again."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, padding=1, padding_mode="circular")
        self.b = nn.Conv2d(6, 5, 3, padding=1, padding_mode="reflect")
        self.reduce, self.spread = nn.Linear(45, 7), nn.Linear(7, 16)
        self.out = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.unfold(self.b(self.a(x).relu()), 3, padding=1)
        x = self.spread(self.reduce(x.transpose(1, 2)).relu()).transpose(1, 2)
        return self.out(F.fold(x, (9, 9), 2))


class Unpooled(nn.Module):
    """Maxima put back where they came from (SegNet), and an image sampled anew (a transformer)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.where, self.out = nn.Linear(6, 6), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, places = F.max_pool2d(self.a(x).relu(), 2, return_indices=True)
        x = F.max_unpool2d(self.b(x), places, 2)
        grid = F.affine_grid(self.where(x.mean((2, 3))).view(-1, 2, 3), x.size(), False)
        return self.out(F.grid_sample(x, grid, align_corners=False))


# ---- recurrence ---------------------------------------------------------------------------------


class Recurrent(nn.Module):
    """Convolution, a layer over time, convolution (reading text from images)."""

    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.rnn = kind(6 * 4, 5, **options)
        self.mid = nn.Conv1d(10 if options.get("bidirectional") else 5, 4, 3, padding=1)
        self.fc, self.batch_first = nn.Linear(4, 7), self.rnn.batch_first

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv(x), 2)
        x = x.permute(0, 3, 1, 2).flatten(2)
        if self.batch_first:
            x, _ = self.rnn(x)
        else:
            x = self.rnn(x.transpose(0, 1))[0].transpose(0, 1)
        return self.fc(F.relu(self.mid(x.transpose(1, 2))).transpose(1, 2))


class LastState(nn.Module):
    """The last state of two layers is read, from a learnt first one."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.gru = nn.Linear(6, 8), nn.GRU(8, 5, 2, batch_first=True)
        self.start = nn.Parameter(torch.randn(2, 1, 5))
        self.out = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        _, last = self.gru(self.up(x), self.start.expand(-1, x.shape[0], -1).contiguous())
        return self.out(last[-1])


class Cells(nn.Module):
    """Cells in a loop, their first states made of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru, self.rnn = nn.LSTMCell(6, 5), nn.GRUCell(5, 4), nn.RNNCell(4, 3)
        self.out = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.zeros(x.size(0), 5, dtype=x.dtype)
        memory, state, end = torch.zeros_like(hidden), x.new_zeros(x.size(0), 4), None
        for step in range(3):
            hidden, memory = self.lstm(x[:, step], (hidden, memory))
            state = self.gru(hidden, state)
            end = self.rnn(state, end)
        return self.out(end)


class HandMade(nn.Module):
    """A recurrent layer and a convolutional LSTM written out."""

    def __init__(self) -> None:
        super().__init__()
        self.gates, self.fc = nn.Conv2d(3 + 5, 20, 3, padding=1), nn.Linear(5, 4)
        self.carry, self.out = nn.Linear(4, 4, bias=False), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        n, steps, _, height, width = x.shape
        hidden = memory = torch.zeros(n, 5, height, width, dtype=x.dtype)
        state = torch.zeros(n, 4, dtype=x.dtype)
        for step in range(steps):
            i, f, o, g = self.gates(torch.cat([x[:, step], hidden], 1)).split(5, 1)
            memory = f.sigmoid() * memory + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * memory.tanh()
            state = torch.tanh(self.fc(hidden.mean((2, 3))) + self.carry(state))
        return self.out(state)


@pytest.mark.parametrize("build", [lambda: Recurrent(nn.LSTM, num_layers=2), LastState])
def test_recurrent_layer_sliced_in_place(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = build().double().eval()
    shape = (2, 7, 6) if isinstance(model, LastState) else (2, 1, 8, 12)
    x = torch.randn(shape, dtype=torch.float64)
    graph = trace(model, (x,))
    kept = random_kept(graph, 0.4, 0)
    sliced = prune_in_place_of(model, graph, kept)
    assert torch.allclose(sliced(x), cut(graph, kept)(x), atol=1e-12)


# ---- weights that are computed ------------------------------------------------------------------


def normed(how: Callable[..., nn.Module]) -> nn.Module:
    return nn.Sequential(
        how(nn.Conv1d(3, 6, 3)),
        nn.ReLU(),
        how(nn.ConvTranspose1d(6, 8, 3), dim=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        how(nn.Linear(8, 3)),
    )


# ---- attention and sums of products -------------------------------------------------------------


class HeadTables(nn.Module):
    """Tables of heads and columns added to queries (Transformer-XL), positions per head."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(8, 8) for _ in range(4))
        self.positions = nn.Embedding(9, 2)
        self.bias = nn.Parameter(torch.randn(2, 4))
        self.out = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (f(x).view(n, t, 2, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
        at = torch.arange(t)
        table = self.positions(at[None] - at[:, None] + t - 1).permute(2, 0, 1)
        scores = (q + self.bias[None, :, None]) @ k.mT + table
        y = scores.softmax(-1) @ v
        return self.out(self.proj(y.transpose(1, 2).flatten(2)))


class GraphAttention(nn.Module):
    """Scores from products with vectors per head, in einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.out = nn.Linear(5, 8), nn.Linear(8, 2)
        self.left, self.right = (nn.Parameter(torch.randn(1, 1, 2, 4)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(x).view(*x.shape[:2], 2, 4)
        left, right = ((h * vector).sum(-1) for vector in (self.left, self.right))
        weights = F.leaky_relu(left[:, :, None] + right[:, None], 0.2).softmax(2)
        return self.out(torch.einsum("bijh,bjhd->bihd", weights, h).flatten(2).mean(1))


class EinsumForms(nn.Module):
    """One packed weight, an ellipsis, no arrow, three operands."""

    def __init__(self) -> None:
        super().__init__()
        self.make = nn.Parameter(torch.randn(3, 2, 6, 4))
        self.last = nn.Parameter(torch.randn(2, 4, 5))
        self.out = nn.Parameter(torch.randn(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = torch.einsum("btc,nhcd->nbhtd", x, self.make)
        weights = torch.einsum("...qd,...kd->...qk", q, k).softmax(-1)
        y = torch.einsum("bhqk,bhkd,hdo->bqo", weights, v, self.last)
        return torch.einsum("bqo,op", y, self.out)


class BilinearPool(nn.Module):
    """Outer products of two branches, flattened: one of them keeps its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3), nn.Conv2d(3, 5, 3)
        self.out = nn.Linear(30, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.a(x).flatten(2) @ self.b(x).flatten(2).transpose(1, 2)
        z = z.view(x.shape[0], -1)
        return self.out(F.normalize(z.sign() * torch.sqrt(z.abs() + 1e-5)))


class Prototypes(nn.Module):
    """Distances to learnt rows."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.rows = nn.Linear(4, 6), nn.Parameter(torch.randn(7, 6))
        self.out = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(-torch.cdist(self.up(x), self.rows, p=1.0))


class PickedTokens(nn.Module):
    """Tokens chosen by a score; what was dropped comes back as a learnt token (MAE)."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.score = nn.Linear(6, 8), nn.Linear(8, 1)
        self.missing, self.out = nn.Parameter(torch.randn(1, 1, 8)), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        order = self.score(x).squeeze(-1).argsort(1)
        kept = torch.gather(x, 1, order[:, :3].unsqueeze(-1).expand(-1, -1, 8))
        x = torch.cat([kept, self.missing.repeat(x.shape[0], 2, 1)], 1)
        back = order.argsort(1).unsqueeze(-1).repeat(1, 1, x.shape[2])
        return self.out(torch.gather(x, 1, back))


class Filtered(nn.Module):
    """A learnt filter of complex numbers over frequencies (GFNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 5, 1)
        self.filter = nn.Parameter(torch.randn(6, 8, 5, 2))
        self.out = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.fft.rfft2(self.a(x), norm="ortho") * torch.view_as_complex(self.filter)
        return self.out(self.b(torch.fft.irfft2(x, s=(8, 8), norm="ortho")).mean((2, 3)))


class Stepwise(nn.Module):
    """Running sums over channels, channels rolled and cropped."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(6, 5, 1)
        self.out = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).roll(3, 1)
        x = x + 0.1 * x.cumsum(1)
        return self.out(self.b(F.pad(x, (0, 0, 0, 0, -1, -1))).mean((2, 3)))


def words(length: int = 7) -> tuple[Any, ...]:
    return (torch.randint(0, 13, (2, length)),)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[Any, ...], Groups]] = {
    "window over a whole axis": (
        SpannedWindow,
        words(),
        {"embed.weight": 6, "convs.0.weight": 4, "convs.1.weight": 4},
    ),
    "tokens as channels": (
        TokensAsChannels,
        (torch.randn(2, 6, 8),),
        {"embed.weight": 8, "up.weight": 10},
    ),
    "modulated": (Modulated, (torch.randn(2, 3, 8, 8),), {"style.weight": 6, "weight": 5}),
    # Four rows, a window of two by two, make one channel.
    "windows": (
        Windows,
        (torch.randn(2, 3, 8, 8),),
        {"a.weight": 6, "b.weight": 5, "reduce.weight": 7, "spread.weight": 4},
    ),
    "unpooled": (Unpooled, (torch.randn(2, 3, 8, 8),), {"a.weight": 6}),
    "LSTM in both directions": (
        lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True, batch_first=True),
        (torch.randn(2, 1, 8, 12),),
        {"conv.weight": 6, "rnn.weight_hh_l0": 5, "mid.weight": 4},
    ),
    "GRU, time first": (
        lambda: Recurrent(nn.GRU),
        (torch.randn(2, 1, 8, 12),),
        {"conv.weight": 6, "rnn.weight_hh_l0": 5, "mid.weight": 4},
    ),
    "plain recurrent layer without biases": (
        lambda: Recurrent(nn.RNN, nonlinearity="relu", bias=False, batch_first=True),
        (torch.randn(2, 1, 8, 12),),
        {"conv.weight": 6, "rnn.weight_hh_l0": 5, "mid.weight": 4},
    ),
    # Both layers share the learnt first state.
    "last state": (LastState, (torch.randn(2, 7, 6),), {"up.weight": 8, "gru.weight_hh_l0": 5}),
    "cells": (
        Cells,
        (torch.randn(2, 3, 6),),
        {"lstm.weight_hh": 5, "gru.weight_hh": 4, "rnn.weight_hh": 3},
    ),
    "recurrence by hand": (
        HandMade,
        (torch.randn(2, 3, 3, 6, 6),),
        {"gates.weight": 5, "fc.weight": 4},
    ),
    "tables of heads and columns": (
        HeadTables,
        (torch.randn(2, 5, 8),),
        {"q.weight": 2, "proj.weight": 8},
    ),
    "graph attention": (GraphAttention, (torch.randn(2, 6, 5),), {"up.weight": 2}),
    # Heads, and columns of every head: both are axes of the weight.
    "forms of einsum": (EinsumForms, (torch.randn(2, 5, 6),), {"make": 2, "make#2": 4, "last": 5}),
    "bilinear pooling": (BilinearPool, (torch.randn(2, 3, 8, 8),), {"a.weight": 6}),
    "prototypes": (Prototypes, (torch.randn(2, 9, 4),), {"up.weight": 6, "rows": 7}),
    "picked tokens": (PickedTokens, (torch.randn(2, 5, 6),), {"up.weight": 8}),
    "filtered": (Filtered, (torch.randn(2, 3, 8, 8),), {"a.weight": 6, "b.weight": 5}),
    "stepwise": (Stepwise, (torch.randn(2, 3, 8, 8),), {"a.weight": 8, "b.weight": 5}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_network(name: str) -> None:
    build, inputs, groups = NETWORKS[name]
    torch.manual_seed(0)
    # Absent columns of learnt rows are zeroed once for the whole batch.
    check(build(), inputs, groups, shared=name == "prototypes")


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize(
    ("how", "name"),
    [
        (nn.utils.weight_norm, "weight_g"),
        (nn.utils.parametrizations.weight_norm, "parametrizations.weight.original0"),
        (nn.utils.parametrizations.spectral_norm, "parametrizations.weight.original"),
        (nn.utils.spectral_norm, "weight_orig"),
    ],
)
def test_normed_weights(how: Callable[..., nn.Module], name: str) -> None:
    torch.manual_seed(0)
    check(normed(how), (torch.randn(2, 3, 12),), {f"0.{name}": 6, f"2.{name}": 8}, shared=True)


# ---- a batch of one that is squeezed away -------------------------------------------------------


class Squeezed(nn.Module):
    """``squeeze()`` drops the batch as well if it is one sample."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.conv(x), 1).squeeze()
        return self.fc(self.norm(x).softmax(-1) + x.mean(-1, keepdim=True))


@pytest.mark.parametrize("ratio", [0.3, 1.0])
def test_squeezed_batch_of_one(ratio: float) -> None:
    model = randomize(Squeezed())
    graph = assert_exact(model, (torch.randn(2, 3, 8, 8),), ratio=ratio, batches=(1, 2, 3))
    pruned = cut(graph, random_kept(graph, ratio, 0))
    for size in (1, 3):
        x = torch.randn(size, 3, 8, 8, dtype=torch.float64)
        assert pruned(x).shape == model(x).shape


@pytest.mark.parametrize("ratio", [0.3, 1.0])
def test_squeezed_batch_of_one_stays_in_onnx(ratio: float, tmp_path: Path) -> None:
    graph = trace(Squeezed(), (torch.randn(2, 3, 8, 8),))
    pruned = cut(graph, random_kept(graph, ratio, 0))
    export_onnx(pruned, tmp_path / "squeezed.onnx")
    report = validate(pruned, tmp_path / "squeezed.onnx")
    assert report.ok, [check.detail for check in report.checks if not check.ok]


def test_ops_without_a_batch_see_the_channels() -> None:
    """A convolution of one image, which has no batch."""

    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 3, groups=1)
            self.out = nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            one = self.b(self.a(x[0]).relu())
            return self.out(one.mean((1, 2))) + 0 * x.mean((1, 2, 3), keepdim=True)[..., 0, 0]

    graph = assert_exact(First(), (torch.randn(2, 3, 8, 8),))
    assert {group.name: len(group) for group in graph.groups} == {"a.weight": 6, "b.weight": 5}


# ---- ops of torchvision -------------------------------------------------------------------------


class Deformed(nn.Module):
    """A deformable convolution, whose offsets stay."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.offset = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 18, 3, padding=1)
        self.deform, self.out = torchvision.ops.DeformConv2d(6, 5, 3, padding=1), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        return self.out(self.deform(x, self.offset(x)).mean((2, 3)))


class Regions(nn.Module):
    """Fixed regions of every image of a batch, pooled and classified."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.out = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(24, 2)

    def forward(self, x: Tensor) -> Tensor:
        which = torch.arange(x.shape[0], dtype=x.dtype)[:, None]
        corners = torch.tensor([[1.0, 1.0, 5.0, 6.0]], dtype=x.dtype).expand(x.shape[0], -1)
        rois = torch.cat([which, corners], 1)
        return self.out(torchvision.ops.roi_align(self.a(x), rois, 2, aligned=True).flatten(1))


@pytest.mark.parametrize(
    ("build", "groups"),
    [(Deformed, {"a.weight": 6, "deform.weight": 5}), (Regions, {"a.weight": 6})],
)
def test_ops_of_torchvision(build: Callable[[], nn.Module], groups: Groups) -> None:
    torch.manual_seed(0)
    check(build(), (torch.randn(2, 3, 8, 8),), groups)
