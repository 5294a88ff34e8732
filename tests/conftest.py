"""Settings of every test: threads, seeds and hypothesis profiles."""

from __future__ import annotations

import contextlib
import functools
import os
import random

import hypothesis
import numpy as np
import pytest
import torch

SEED = 0

# Test processes run side by side, one a core, so each keeps to its own.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, max_examples=50)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=500)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def _read_torchlib_once() -> None:
    """Let torch.onnx parse its five hundred functions once a process, not for every export.

    That is a second of every test that writes an ONNX file, and always the same. Where torch has
    moved it, tests are slower.
    """
    with contextlib.suppress(ImportError, AttributeError):
        from torch.onnx._internal._lazy_import import onnxscript_apis

        parse = onnxscript_apis.get_torchlib_ops
        onnxscript_apis.get_torchlib_ops = functools.cache(parse)


_read_torchlib_once()


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Start every test from the same random state, whatever ran before it."""
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
