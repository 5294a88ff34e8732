"""Transformers: is a pruned one exact, and how much does a repair give back?

A vision transformer (timm) is trained on scikit-learn's digits, a language model (GPT-2's
architecture, transformers) on the texts that describe scikit-learn's data sets, letter by letter;
both are built from a configuration and trained here in about two minutes. Then units go, heads and
hidden columns alike, by score per multiply-accumulate over the whole network.

    python benchmarks/transformers.py
    python benchmarks/transformers.py --markdown
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

# Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if not __package__:
    # Run as a script: this folder's coverage.py would be taken for the library of that name.
    sys.path[0] = str(Path(__file__).parents[1])

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphprune as gp
from benchmarks.contest.table import Table, markdown, show
from graphprune.data import as_batches
from graphprune.fidelity import Judge
from graphprune.repairs import repair

RATIOS = (0.2, 0.4)
CRITERIA = ("shapley", "taylor", "group-magnitude")
REPAIRS = ("bias", "least-squares", "distill")
N_CALIBRATION = 256
N_TEST = 500


@dataclass(frozen=True)
class Subject:
    """A trained network.

    Args:
        name: What it is.
        model: The network, in evaluation mode.
        calibration: Inputs that rankings and repairs look at.
        test: Inputs that nothing else looks at.
    """

    name: str
    model: nn.Module
    calibration: Tensor
    test: Tensor


class LanguageModel(nn.Module):
    """GPT-2's architecture, from a configuration; returns logits of the next letter."""

    def __init__(self, letters: int, length: int) -> None:
        super().__init__()
        from transformers import GPT2Config, GPT2LMHeadModel

        config = GPT2Config(
            vocab_size=letters,
            n_positions=length,
            n_embd=96,
            n_layer=4,
            n_head=6,
            use_cache=False,
            bos_token_id=None,
            eos_token_id=None,
            attn_implementation="sdpa",
        )
        self.body = GPT2LMHeadModel(config)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (N, length, letters) for tokens (N, length)."""
        logits: Tensor = self.body(tokens).logits
        return logits


def vision_transformer() -> Subject:
    """Train a vision transformer on digits."""
    from sklearn.datasets import load_digits
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(images.astype(np.float32)).reshape(-1, 1, 8, 8) / 8 - 1
    y = torch.from_numpy(labels)
    order = torch.randperm(len(x))
    x, y = x[order], y[order]
    model = VisionTransformer(
        img_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=96, depth=4, num_heads=6
    )
    known = slice(N_TEST, None)
    trained(model, x[known], lambda out, index: F.cross_entropy(out, y[known][index]), steps=400)
    return Subject("vision transformer", model.eval(), x[N_TEST:][:N_CALIBRATION], x[:N_TEST])


def language_model(length: int = 48) -> Subject:
    """Train a language model on descriptions of data sets."""
    from sklearn import datasets

    torch.manual_seed(0)
    folder = Path(str(datasets.__file__)).parent / "descr"
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.rst")))
    letters = sorted(set(text))
    codes = torch.tensor([letters.index(letter) for letter in text])
    rows = codes[: len(codes) // length * length].reshape(-1, length)
    rows = rows[torch.randperm(len(rows))]
    model, known = LanguageModel(len(letters), length), rows[N_TEST:]

    def loss(out: Tensor, index: Tensor) -> Tensor:
        return F.cross_entropy(out[:, :-1].flatten(0, 1), known[index][:, 1:].flatten())

    trained(model, known, loss, steps=400)
    return Subject("language model", model.eval(), known[:N_CALIBRATION], rows[:N_TEST])


def trained(
    model: nn.Module, x: Tensor, loss: Callable[[Tensor, Tensor], Tensor], *, steps: int
) -> None:
    """Train for some steps on batches drawn at random."""
    model.train()
    adam = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, 2e-3, total_steps=steps)
    for _ in range(steps):
        index = torch.randint(len(x), (64,))
        adam.zero_grad()
        loss(model(x[index]), index).backward()
        adam.step()
        schedule.step()


def rows_of(subject: Subject) -> list[list[str]]:
    """Prune by every criterion, at every ratio, and repair in every way."""
    graph = gp.trace(subject.model, (subject.calibration[:2],))
    judge = Judge(graph, as_batches(subject.test))
    found = []
    for criterion in CRITERIA:
        ranking = gp.rank(graph, (subject.calibration,), criterion)
        for ratio in RATIOS:
            plan = gp.select(ranking, ratio=ratio, of="macs", scope="global")
            pruned = gp.prune(graph, plan)
            kept = plan.kept(graph)
            models = [pruned] + [
                repair(pruned, as_batches((subject.calibration,)), method).model
                for method in REPAIRS
            ]
            judged = [judge.judge(model, kept) for model in models]
            cells = [f"{each.kl:.3f} ({100 * (each.agreement or 0):.0f} %)" for each in judged]
            error = f"{masked_error(graph, plan, subject.test[:64]):.0e}"
            found.append([subject.name, criterion, f"{100 * ratio:.0f} %", error, *cells])
    return found


def masked_error(graph: gp.DependencyGraph, plan: gp.PruningPlan, x: Tensor) -> float:
    """Return the largest difference of masked and pruned network in double precision, relative."""
    masked, pruned = gp.mask(graph, plan).double(), gp.prune(graph, plan).double()
    given = x.double() if x.is_floating_point() else x
    with torch.no_grad():
        one, other = masked(given), pruned(given)
    return float((one - other).abs().max() / one.abs().max())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options = parser.parse_args(arguments)
    rows = [row for make in (vision_transformer, language_model) for row in rows_of(make())]
    columns = ["network", "criterion", "MACs removed", "masked - pruned", "no repair", *REPAIRS]
    tables = [
        Table(
            "Divergence in nats (same prediction), on inputs used for nothing else",
            tuple(columns),
            tuple(map(tuple, rows)),
        )
    ]
    if options.markdown:
        print(markdown(tables))
    else:
        show(tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())
