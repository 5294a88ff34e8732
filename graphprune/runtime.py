"""onnxruntime: a session that says which provider it really uses."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from graphprune.errors import ArtifactError, OptionError
from graphprune.files import unreachable

PROVIDERS = ("auto", "cpu", "cuda")

CPU = "CPUExecutionProvider"
"""onnxruntime's name of the provider that is always there."""

_CUDA = "CUDAExecutionProvider"
_LARGEST = 2**31
"""Bytes that protobuf's own limit allows."""

_ERROR, _FATAL = 3, 4
"""onnxruntime's log levels: what is said less loudly than this is not said at all."""


@dataclass(frozen=True)
class Session:
    """An ONNX file ready to run.

    Args:
        session: The onnxruntime session.
        asked: The provider asked for: ``auto``, ``cpu`` or ``cuda``.
    """

    session: Any
    asked: str

    @property
    def uses_cuda(self) -> bool:
        """Whether it really runs on a GPU; onnxruntime falls back to the CPU in silence."""
        return _CUDA in self.session.get_providers()

    @property
    def provider(self) -> str:
        """The provider that it really runs on: ``cpu`` or ``cuda``."""
        return "cuda" if self.uses_cuda else "cpu"

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs, in order."""
        return [output.name for output in self.session.get_outputs()]

    def run(self, leaves: Sequence[Tensor]) -> list[Tensor]:
        """Run it on flat inputs.

        Raises:
            RuntimeError: onnxruntime refuses them.
        """
        names = [given.name for given in self.session.get_inputs()]
        if len(names) != len(leaves):
            raise RuntimeError(f"the file takes {len(names)} inputs, the network {len(leaves)}")
        if any(leaf.dtype == torch.bfloat16 for leaf in leaves):
            raise RuntimeError("onnxruntime's Python interface takes no bfloat16 inputs")
        values = [leaf.detach().cpu().numpy() for leaf in leaves]
        made = self.session.run(None, dict(zip(names, values, strict=True)))
        return [torch.from_numpy(np.asarray(value)) for value in made]


def open_session(
    path: Path, provider: str, *, threads: int | None = None, optimized: bool = True
) -> Session:
    """Open an ONNX file.

    Args:
        path: The file.
        provider: ``cpu``, ``cuda``, or ``auto`` for CUDA where there is a GPU.
        threads: Threads that one operator may use; None leaves it to onnxruntime. When a run has
            ended they sleep at once, so that sessions that run in turn do not disturb each other.
        optimized: Let onnxruntime rewrite the graph, as it does by default.

    Raises:
        OptionError: There is no such provider.
        ArtifactError: The file is missing, damaged or no ONNX file.
    """
    if provider not in PROVIDERS:
        raise OptionError(f"provider {provider!r} is none of {', '.join(PROVIDERS)}")
    require_onnx_file(path)
    try:
        options = session_options(threads)
        if not optimized:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return Session(_session(path, _wanted(provider), options), provider)
    except Exception as error:  # onnxruntime's errors have no common base
        text = " ".join(str(error).split())
        lacks = "NOT_IMPLEMENTED" in text or "bfloat16" in text
        raise ArtifactError(
            f"onnxruntime cannot read {path}: {text[:300]}",
            hint="onnxruntime lacks an operator in the network's dtype; export it in float32"
            if lacks
            else "it is damaged or no ONNX file; export the network again",
        ) from error


def require_onnx_file(path: Path) -> None:
    """Refuse, unread, what can be no ONNX file.

    Raises:
        ArtifactError: Nothing is there, it may not be looked at, or it is too large.
    """
    refusal = unreachable(path)
    if refusal is not None:
        raise ArtifactError(
            f"{path} cannot be read: {refusal}",
            hint="check its permissions, and those of its folder",
        )
    if not path.is_file():
        raise ArtifactError(f"there is no file {path}", hint="export the network first")
    if path.stat().st_size > _LARGEST:
        raise ArtifactError(
            f"{path} has {path.stat().st_size} bytes; an ONNX file has less than {_LARGEST}",
            hint="export the network again, with its weights in a file beside it",
        )


def _wanted(provider: str) -> list[Any]:
    has_cuda = _CUDA in onnxruntime.get_available_providers()
    wants_cuda = provider == "cuda" or (provider == "auto" and torch.cuda.is_available())
    if not (has_cuda and wants_cuda):
        return [CPU]
    # TensorFloat-32 rounds to 10 bits, which no tolerance for float32 would let pass.
    return [(_CUDA, {"use_tf32": "0"}), CPU]


def session_options(threads: int | None) -> Any:
    """Return what sessions are opened with, see :func:`open_session`."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERROR
    if threads is not None:
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _session(path: Path, providers: list[Any], options: Any) -> Any:
    # Loading CUDA's libraries fails loudly where there are none; the caller looks at the outcome.
    onnxruntime.set_default_logger_severity(_FATAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return onnxruntime.InferenceSession(path, options, providers=providers)
    finally:
        onnxruntime.set_default_logger_severity(_ERROR)
