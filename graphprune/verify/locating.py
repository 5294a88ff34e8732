"""Locate: when onnxruntime and torch differ, find out where, whatever is known of the network."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
from torch import fx, nn

from graphprune.errors import GraphpruneError
from graphprune.files import replacing
from graphprune.graph import DependencyGraph, trace
from graphprune.onnx_bytes import with_weights
from graphprune.surgery import PrunedModel
from graphprune.verify.cases import Case
from graphprune.verify.contents import read_onnx
from graphprune.verify.divergence import find_divergence
from graphprune.verify.forms import Form, first_failing
from graphprune.verify.report import Divergence
from graphprune.verify.tolerances import Limits


def locate(
    network: nn.Module,
    path: Path,
    forms: tuple[Form, Form],
    cases: Sequence[Case],
    limits: Limits,
    graph: DependencyGraph | None,
) -> Divergence | None:
    """Find the first node that differs; None if it cannot be found.

    Args:
        network: The network.
        path: Its file.
        forms: Both, ready to run.
        cases: Inputs, on some of which they differ.
        limits: What passes.
        graph: The network as traced, or the one that it was cut from, where known.
    """
    # This explains a failure that is already certain; that it cannot be explained is no other one.
    with suppress(Exception):
        case = first_failing(*forms, cases, limits)
        if case is None:
            return None
        graph = _graph(network, case) if graph is None else graph
        traced = network if isinstance(network, fx.GraphModule) else None
        if traced is None and graph is not None:
            traced = graph.program.module
        if traced is not None:
            file = with_weights(read_onnx(path), path.parent)
            return find_divergence(traced, file, case, limits.default.relative, graph)
    return None


WITNESSES = ("submodel.onnx", "inputs.npz", "expected.npz")
"""Files that show a divergence."""


def drop_witness(folder: Path) -> None:
    """Remove what :func:`save_witness` wrote, and the folder if nothing else is in it."""
    if not folder.is_dir() or folder.is_symlink():
        return
    with suppress(OSError):  # a folder that may not be written to keeps what is in it
        for name in WITNESSES:
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()


def save_witness(divergence: Divergence, folder: Path) -> tuple[Path, ...]:
    """Write the part of the file that shows a divergence, its inputs, and what is right.

    Args:
        divergence: What was found.
        folder: Made if it is not there.

    Returns:
        ``submodel.onnx``, ``inputs.npz`` and, where it is known, ``expected.npz``.

    Raises:
        ArtifactError: The folder cannot be written to.
    """
    witness, written = divergence.witness, [folder / name for name in WITNESSES[:2]]
    with replacing(written[0]) as temporary:
        onnx.save(witness.model, temporary)
    arrays = [{name: value.numpy() for name, value in witness.inputs.items()}]
    if witness.expected is not None:
        written.append(folder / WITNESSES[2])
        arrays.append({divergence.value: witness.expected.numpy()})
    for path, named in zip(written[1:], arrays, strict=True):
        with replacing(path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **named)
    return tuple(written)


def _graph(network: nn.Module, case: Case) -> DependencyGraph | None:
    if isinstance(network, PrunedModel) and network.origin is not None:
        return network.origin.graph
    with suppress(GraphpruneError):  # then no group can be named
        return trace(network, case.inputs)
    return None
