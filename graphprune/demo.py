"""Demo: the whole pipeline on scikit-learn's digits, from training to a proven ONNX file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphprune.data import DataSource, as_batches
from graphprune.errors import OptionError
from graphprune.export import export_onnx, load_program
from graphprune.fidelity import Fidelity, Judge
from graphprune.files import replacing, replacing_stream
from graphprune.load import ModelSource
from graphprune.pipeline import (
    Common,
    Pruned,
    PruneOptions,
    RankOptions,
    carry_out,
    holding,
    plan_run,
)
from graphprune.progress import Progress, silent
from graphprune.surgery import cut

RATIO = 0.3
EPOCHS = 12
N_TRAIN, N_CALIBRATION = 1000, 256


class DigitsNetwork(nn.Module):
    """A small convolutional network with a residual and a concat connection, for 8x8 digits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24))
        self.inner = nn.Sequential(
            nn.Conv2d(24, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 24, 3, padding=1, bias=False),
            nn.BatchNorm2d(24),
        )
        self.wide = nn.Sequential(nn.Conv2d(24, 24, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.deep = nn.Sequential(
            nn.Conv2d(24, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU()
        )
        self.last = nn.Sequential(
            nn.Conv2d(48, 48, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(48), nn.ReLU()
        )
        self.classify = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return class logits (N, 10) for images (N, 1, 8, 8)."""
        x = F.relu(self.stem(x))
        x = F.relu(x + self.inner(x))
        x = torch.cat([self.wide(x), self.deep(x)], 1)
        logits: Tensor = self.classify(self.last(x).mean((2, 3)))
        return logits


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demo did.

    Args:
        pruned: The pruned network and its files.
        test_before: Accuracy on images used for nothing else, before.
        test_after: The same, after.
        bytes_before: Size of the ONNX file of the unpruned network.
        bytes_after: Size of the ONNX file of the pruned one.
    """

    pruned: Pruned
    test_before: float
    test_after: float
    bytes_before: int
    bytes_after: int

    @property
    def ok(self) -> bool:
        """Whether the validation passed."""
        return self.pruned.report.ok

    @property
    def validation(self) -> str:
        """The validation in one line."""
        errors = [c.max_rel for c in self.pruned.report.checks if c.max_rel is not None]
        verdict = "passed" if self.ok else "FAILED"
        return f"{verdict}, {len(self.pruned.report.checks)} checks, max error {max(errors):.1e}"

    @property
    def rows(self) -> tuple[tuple[str, str, str], ...]:
        """Rows of the table: label, before, after."""
        before, after = self.pruned.plan.before, self.pruned.plan.after
        return (
            ("units", f"{before.units:,}", f"{after.units:,}"),
            ("parameters", f"{before.params:,}", f"{after.params:,}"),
            ("MACs", f"{before.macs:,}", f"{after.macs:,}"),
            ("test accuracy", f"{self.test_before:.1%}", f"{self.test_after:.1%}"),
            ("ONNX file", f"{self.bytes_before:,} B", f"{self.bytes_after:,} B"),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON types."""
        before, after = self.pruned.plan.before, self.pruned.plan.after
        return {
            "out": str(self.pruned.folder.path),
            "ok": self.ok,
            "units": [before.units, after.units],
            "params": [before.params, after.params],
            "macs": [before.macs, after.macs],
            "test_accuracy": [self.test_before, self.test_after],
            "onnx_bytes": [self.bytes_before, self.bytes_after],
            "validation": self.validation,
        }


def run(
    out: Path, *, seed: int = 0, argv: tuple[str, ...] = (), progress: Progress = silent
) -> DemoResult:
    """Train, rank, prune, repair, export and validate; writes everything into ``out``.

    Raises:
        OptionError: scikit-learn, whose digits are used, is not installed.
    """
    common = Common(out=out, seed=seed, argv=argv, progress=progress)
    with holding(common):
        return _run(common)


def _run(common: Common) -> DemoResult:
    out, seed = common.out, common.seed
    train, calibration, test = digits(seed)
    network = train_network(train, seed=seed, progress=common.progress)
    weights, images = out / "network.pt", out / "calibration.npz"
    with replacing_stream(weights) as stream:
        torch.save(network.state_dict(), stream)
    with replacing(images) as temporary:
        np.savez(temporary, x=calibration[0].numpy(), y=calibration[1].numpy())
    model = ModelSource(spec="graphprune.demo:DigitsNetwork", weights=str(weights))
    options = PruneOptions(ratio=RATIO, of="macs")
    planned = plan_run(model, DataSource(spec=str(images)), RankOptions(), options, common)
    graph = planned.subject.graph
    # Not by the name of a file of the run: those are replaced together.
    unpruned = out / "unpruned.onnx"
    export_onnx(cut(graph, graph.all_kept()), unpruned)
    judge = Judge(graph, as_batches(test))
    pruned = carry_out(planned, options, common)
    after = judge.judge(load_program(pruned.folder.program), pruned.plan.kept(graph))
    return DemoResult(
        pruned=pruned,
        test_before=_accuracy(judge.unpruned()),
        test_after=_accuracy(after),
        bytes_before=unpruned.stat().st_size,
        bytes_after=pruned.folder.onnx.stat().st_size,
    )


def train_network(
    data: tuple[Tensor, Tensor], *, seed: int = 0, progress: Progress = silent
) -> DigitsNetwork:
    """Train the demo's network for a few seconds.

    Args:
        data: Images (N, 1, 8, 8) and labels (N,).
        seed: Seed of weights and batches; the global generator is left as it was.
        progress: Told about every epoch.
    """
    images, labels = data
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DigitsNetwork().train()
        optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
        for epoch in range(EPOCHS):
            for rows in torch.randperm(len(images)).split(64):
                optimizer.zero_grad()
                F.cross_entropy(network(images[rows]), labels[rows]).backward()
                optimizer.step()
            progress("training", epoch + 1, EPOCHS)
    return network.eval()


def digits(
    seed: int,
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Split scikit-learn's digits into training, calibration and test images.

    Args:
        seed: Seed of the split.

    Returns:
        Three times images (N, 1, 8, 8), from 0 to 1, and labels (N,).

    Raises:
        OptionError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise OptionError(
            "the demo uses scikit-learn's digits, and scikit-learn is not installed",
            hint="pip install 'graphprune[demo]'",
        ) from error
    found = load_digits()
    order = np.random.default_rng(seed).permutation(len(found.target))
    images = torch.from_numpy(found.images[order]).float().unsqueeze(1) / 16
    labels = torch.from_numpy(found.target[order]).long()
    ends = N_TRAIN, N_TRAIN + N_CALIBRATION
    parts = [slice(0, ends[0]), slice(*ends), slice(ends[1], None)]
    train, calibration, test = ((images[part], labels[part]) for part in parts)
    return train, calibration, test


def _accuracy(found: Fidelity) -> float:
    assert found.accuracy is not None  # the digits have labels
    return found.accuracy
