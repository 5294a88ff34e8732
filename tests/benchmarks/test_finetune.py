"""benchmarks/finetune.py: both optimizers start from one network and see the same batches."""

from __future__ import annotations

import pytest
import torch

from benchmarks import finetune
from benchmarks.contest.table import markdown


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune, "BEFORE", 4)
    monkeypatch.setattr(finetune, "LOOKS", (0, 1, 2))


@pytest.mark.usefixtures("quick")
def test_only_the_state_of_the_optimizer_differs() -> None:
    carried, new = finetune.measured("sgd", 0, 0.3)
    assert (carried.kind, new.kind) == ("carried", "new")
    assert carried.losses[0] == new.losses[0]
    assert carried.losses[1:] != new.losses[1:]
    shown = markdown([finetune.table([carried, new])])
    assert f"{new.losses[2]:.3f} ({100 * new.accuracies[2]:.1f} %)" in shown


def test_batches_depend_on_the_seed_alone() -> None:
    first, again, other = (next(finetune.batches(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
