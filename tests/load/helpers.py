"""Small networks to save, and archives to forge."""

from __future__ import annotations

import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

PROGRAM = "models/model.json"
SAMPLES = "data/sample_inputs/model.pt"
CONSTANTS = "data/constants/model_constants_config.json"
WEIGHTS = "data/weights/model_weights_config.json"


def small_cnn() -> nn.Sequential:
    """A network for 3-channel images of 8 pixels or more."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 5),
    )  # fmt: skip


class Touch:
    """Pickles into a call of ``os.system`` that makes a file."""

    def __init__(self, canary: Path) -> None:
        self.command = f"touch {canary}"

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


class Calls:
    """Pickles into a call of anything."""

    def __init__(self, called: Callable[..., Any], *arguments: object) -> None:
        self.parts = (called, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.parts


def saved(value: object) -> bytes:
    """Return what ``torch.save`` writes, whatever the value."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def export_to(path: Path, model: nn.Module, *inputs: torch.Tensor, dynamic: bool = True) -> None:
    """Export a model with a dynamic batch."""
    batch = torch.export.Dim("batch", min=1)
    shapes = tuple({0: batch} for _ in inputs) if dynamic else None
    program = torch.export.export(model.eval(), inputs, dynamic_shapes=shapes)
    torch.export.save(program, path)


def records_of(path: Path) -> dict[str, bytes]:
    """Return an archive's members."""
    reader = torch._C.PyTorchFileReader(str(path))
    names = [name for name in reader.get_all_records() if not name.startswith(".data/")]
    return {name: bytes(reader.get_record(name)) for name in names}


def forge(path: Path, records: dict[str, bytes]) -> Path:
    """Write an archive as torch would."""
    writer = torch._C.PyTorchFileWriter(str(path))
    for name, content in records.items():
        if name not in {"version", "byteorder"}:
            writer.write_record(name, content, len(content))
    writer.write_end_of_file()
    return path


def edited(content: bytes, change: Callable[[Any], None]) -> bytes:
    """Return JSON after a change in place."""
    document = json.loads(content)
    change(document)
    return json.dumps(document).encode()


def pickled(value: object) -> bytes:
    """Return a plain protocol-2 pickle."""
    return pickle.dumps(value, protocol=2)
