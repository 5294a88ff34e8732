"""What the tests of this layer share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.load.helpers import export_to, records_of, small_cnn


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that malicious inputs try to make."""
    return tmp_path / "canary"


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small exported program."""
    path = tmp_path_factory.mktemp("exported") / "model.pt2"
    export_to(path, small_cnn(), torch.randn(3, 3, 16, 12))
    return path


@pytest.fixture
def records(exported: Path) -> dict[str, bytes]:
    """The members of that program, to be changed."""
    return records_of(exported)
