"""The records of this layer: where a model comes from, and the model once it is loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*|.+\.py:[A-Za-z_][\w.]*", re.DOTALL)


class SpecKind(Enum):
    """The forms that MODEL can take."""

    PICKLED = "a pickled module (.pt, .pth)"
    EXPORTED = "an exported program (.pt2)"
    TORCHVISION = "torchvision:NAME"
    TIMM = "timm:NAME"
    FACTORY = "package.module:factory or path/file.py:factory"
    OTHER = "none of the forms"


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Everything needed to load the same model again.

    Args:
        spec: MODEL as typed: a ``.pt``, ``.pth`` or ``.pt2`` file, ``torchvision:NAME``,
            ``timm:NAME``, ``package.module:factory`` or ``path/file.py:factory``.
        weights: A state dict (``.pt``, ``.pth``) or ``.safetensors`` file to load into the model.
        input_shapes: One shape per model input, without the batch; empty to have it inferred.
    """

    spec: str
    weights: str | None = None
    input_shapes: tuple[tuple[int, ...], ...] = ()

    @property
    def runs_code(self) -> bool:
        """Whether loading calls a factory, that is, runs the user's own code."""
        return self.kind is SpecKind.FACTORY

    @property
    def kind(self) -> SpecKind:
        """Which form ``spec`` has, judged by its text alone."""
        for prefix, kind in (("torchvision:", SpecKind.TORCHVISION), ("timm:", SpecKind.TIMM)):
            if self.spec.startswith(prefix):
                return kind
        if _FACTORY.fullmatch(self.spec):
            return SpecKind.FACTORY
        lowered = self.spec.lower()
        if lowered.endswith((".pt", ".pth")):
            return SpecKind.PICKLED
        return SpecKind.EXPORTED if lowered.endswith(".pt2") else SpecKind.OTHER


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A network in eval mode on the CPU, with inputs that it runs on.

    Args:
        module: The network.
        example_inputs: One tensor per input: a batch of 2 (or of the one size that an exported
            program was fixed to), drawn from a seeded standard normal distribution.
        source: Where it came from, with the input shapes that were used.
        sha256: Hash of class name and state dict, whatever file they were read from.
        notes: What was decided on the user's behalf.
    """

    module: nn.Module
    example_inputs: tuple[torch.Tensor, ...]
    source: ModelSource
    sha256: str
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A network as one of the readers found it, before weights and inputs are settled.

    Args:
        module: The network.
        is_exported: It came from ``.pt2``: it is in eval mode for good.
        stored_inputs: Inputs that the file carries, each with its batch.
        fixed_batch: The only batch size that an exported program accepts, if there is one.
        notes: What the reader has to say to the user.
    """

    module: nn.Module
    is_exported: bool = False
    stored_inputs: tuple[torch.Tensor, ...] = ()
    fixed_batch: int | None = None
    notes: tuple[str, ...] = field(default=())
