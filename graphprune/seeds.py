"""Seeds: every part of the work has one of its own, so that parts may be done in any order."""

from __future__ import annotations

import numpy as np


def seed_of(seed: int, number: int) -> int:
    """Return the seed of one part: parts and seeds that differ draw independently.

    Args:
        seed: Of the whole work.
        number: Of the part, from 0.
    """
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
