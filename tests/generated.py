"""Random networks: pieces with one coupling each, composed at random.

Every piece maps images (batch, channels, 4, 4) to images; :class:`Generated` chains some of them
between a stem and a classifier.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers import randomize

SIZE = 4
"""Height and width throughout."""


class Piece(nn.Module):
    """Maps ``width`` channels to ``self.width`` channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width


class ConvPiece(Piece):
    def __init__(self, width: int) -> None:
        super().__init__(2 * (width % 5) + 4)
        self.conv, self.norm = nn.Conv2d(width, self.width, 1), nn.BatchNorm2d(self.width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


class ResidualPiece(Piece):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.a, self.b = nn.Conv2d(width, 6, 3, padding=1), nn.Conv2d(6, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(F.silu(self.a(x)))


class ConcatPiece(Piece):
    def __init__(self, width: int) -> None:
        super().__init__(width + 4)
        self.conv = nn.Conv2d(width, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.conv(x), x], 1)


class SplitPiece(Piece):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.first = width // 2
        self.conv = nn.Conv2d(self.first, self.first, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.split([self.first, self.width - self.first], 1)
        return torch.cat([right, self.conv(left) * left.sigmoid()], 1)


class SlicePiece(Piece):
    def __init__(self, width: int) -> None:
        super().__init__(width - 1)
        self.conv = nn.Conv2d(1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 1:] + self.conv(x[:, :1])


class ShufflePiece(Piece):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.groups = 2 if width % 2 == 0 else 1

    def forward(self, x: Tensor) -> Tensor:
        dealt = x.unflatten(1, (self.groups, -1))
        return dealt.transpose(1, 2).flatten(1, 2)


class GroupedPiece(Piece):
    def __init__(self, width: int) -> None:
        super().__init__(8)
        groups = next(g for g in (4, 3, 2, 1) if width % g == 0 and 8 % g == 0)
        self.conv = nn.Conv2d(width, 8, 3, padding=1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class DepthwisePiece(Piece):
    def __init__(self, width: int) -> None:
        super().__init__(2 * width)
        self.conv = nn.Conv2d(width, 2 * width, 3, padding=1, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class GroupNormPiece(Piece):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.norm = nn.GroupNorm(next(g for g in (4, 2, 3, 1) if width % g == 0), width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class LayerNormPiece(Piece):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.norm, self.fc = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return (x.movedim(1, -1) + self.fc(self.norm(x.movedim(1, -1)))).movedim(-1, 1)


class ExcitePiece(Piece):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.a, self.b = nn.Linear(width, 4), nn.Linear(4, width)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.b(F.relu(self.a(x.mean((2, 3))))).sigmoid()
        return x * gate[:, :, None, None].expand_as(x)


class PadPiece(Piece):
    def __init__(self, width: int) -> None:
        super().__init__(width + 3)
        self.conv = nn.Conv2d(width, width + 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, 0, 1, 2)) + self.conv(x)


class DepthToSpacePiece(Piece):
    def __init__(self, width: int) -> None:
        super().__init__(3)
        self.conv = nn.Conv2d(width, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(F.pixel_shuffle(self.conv(x), 2), 2)


class CentrePiece(Piece):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(1, keepdim=True) + 0.1 * x.amax(1, keepdim=True)


class SoftmaxPiece(Piece):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.softmax(1)


class StackPiece(Piece):
    def __init__(self, width: int) -> None:
        super().__init__(2 * width)
        self.conv = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x, self.conv(x)], 2).flatten(1, 2)


class GatedPiece(Piece):
    def __init__(self, width: int) -> None:
        super().__init__(6)
        self.conv = nn.Conv2d(width, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.conv(x).chunk(2, 1)
        return left * right.sigmoid()


class AttentionPiece(Piece):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.qkv, self.proj = nn.Linear(width, 24), nn.Linear(8, width)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        y = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(y).reshape(n, SIZE**2, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, SIZE**2, 8)
        return x + self.proj(y).transpose(1, 2).reshape(n, self.width, SIZE, SIZE)


class RollPiece(Piece):
    def __init__(self, width: int) -> None:
        super().__init__(width + 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x.roll((2, 1), (1, 3)), (0, 0, 0, 0, 2, -1))


class RunningPiece(Piece):
    def forward(self, x: Tensor) -> Tensor:
        return x.tanh().cumprod(1) + 0.1 * x.cumsum(1)


class TransposedPiece(Piece):
    def __init__(self, width: int) -> None:
        super().__init__(8)
        groups = next(g for g in (4, 3, 2, 1) if width % g == 0 and 8 % g == 0)
        self.conv = nn.ConvTranspose2d(width, 8, 3, padding=1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class RecurrentPiece(Piece):
    def __init__(self, width: int) -> None:
        super().__init__(6)
        self.rnn = nn.GRU(width, 3, bidirectional=True, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(x.mean(3).transpose(1, 2))
        return y.transpose(1, 2)[..., None].expand(-1, -1, -1, SIZE)


class SortedPiece(Piece):
    """Positions in the order of their means."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.flatten(2).transpose(1, 2)
        order = y.mean(-1).argsort(1)
        y = y.gather(1, order.unsqueeze(-1).expand(-1, -1, self.width))
        return y.transpose(1, 2).reshape(x.shape)


class WindowPiece(Piece):
    def __init__(self, width: int) -> None:
        super().__init__(5)
        self.fc = nn.Linear(9 * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(F.unfold(x, 3, padding=1).transpose(1, 2)).transpose(1, 2)
        return y.unflatten(2, (SIZE, SIZE))


class HeadTablePiece(Piece):
    """A table of heads and columns, and a product by einsum."""

    def __init__(self, width: int) -> None:
        super().__init__(6)
        self.weight = nn.Parameter(torch.randn(width, 2, 3) / width)
        self.table = nn.Parameter(torch.randn(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.einsum("bchw,cnd->bndhw", x, self.weight)
        return (y + self.table[..., None, None]).flatten(1, 2)


class WrittenPiece(Piece):
    def forward(self, x: Tensor) -> Tensor:
        y = x.clone()
        y[:, :, 0] = 2 * x[:, :, 1]
        y[:, :1] = 0.5
        return y.index_add(2, torch.tensor([0, 2]), x[:, :, 1:3].tanh())


PIECES: tuple[type[Piece], ...] = (
    ConvPiece,
    ResidualPiece,
    ConcatPiece,
    SplitPiece,
    SlicePiece,
    ShufflePiece,
    GroupedPiece,
    DepthwisePiece,
    GroupNormPiece,
    LayerNormPiece,
    ExcitePiece,
    PadPiece,
    DepthToSpacePiece,
    CentrePiece,
    SoftmaxPiece,
    StackPiece,
    GatedPiece,
    AttentionPiece,
    RollPiece,
    RunningPiece,
    TransposedPiece,
    RecurrentPiece,
    SortedPiece,
    WindowPiece,
    HeadTablePiece,
    WrittenPiece,
)


class Generated(nn.Module):
    """A stem, pieces in a row, a classifier.

    Args:
        kinds: Places in :data:`PIECES`.
        flatten: The classifier reads all positions instead of their mean.
    """

    def __init__(self, kinds: Sequence[int], *, flatten: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        width, pieces = 6, []
        for kind in kinds:
            # Pieces that take channels apart need a few.
            pieces.append((PIECES[kind] if width > 2 else ConvPiece)(width))
            width = pieces[-1].width
        self.pieces = nn.Sequential(*pieces)
        self.mix = nn.Conv2d(width, 5, 1)
        self.flatten = flatten
        self.fc = nn.Linear(5 * SIZE**2 if flatten else 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.mix(self.pieces(F.relu(self.stem(x)))))
        return self.fc(x.flatten(1) if self.flatten else x.mean((2, 3)))


def generate(kinds: Sequence[int], *, flatten: bool, seed: int) -> nn.Module:
    """Return a seeded network in float64 and evaluation mode."""
    torch.manual_seed(seed)
    return randomize(Generated(kinds, flatten=flatten), seed).double().eval()
