"""Look through a ``.pt2`` archive before ``torch.export.load`` does.

torch's reader unpickles constants and sample inputs without restriction when told to by the file,
loads compiled libraries, and evaluates strings. The scan reads the members with torch's own archive
reader, so that both see the same bytes, and lets pass what plain programs are made of: raw tensors,
sample inputs that are tensors, and a graph that `graphprune.load.program_scan` accepts.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch._export.serde import schema
from torch._export.serde.serialize import _dict_to_dataclass

from graphprune.errors import ModelError, TrustError
from graphprune.load.containers import require_plain_zip
from graphprune.load.program_scan import Unplain, require_plain_dimension, require_plain_program

_PROGRAM = "models/model.json"
_SAMPLES = "data/sample_inputs/model.pt"
_CONFIGS = {
    "data/weights/model_weights_config.json": ("data/weights/", re.compile(r"weight_\d+")),
    "data/constants/model_constants_config.json": ("data/constants/", re.compile(r"tensor_\d+")),
}
_REQUIRED = (_PROGRAM, _SAMPLES, *_CONFIGS, "archive_format", "archive_version")
_HARMLESS = re.compile(
    r"byteorder|version|\.data/\w+|\.format_version|\.storage_alignment"
    r"|extra/[\w.\-/]+|data/weights/weight_\d+|data/constants/tensor_\d+",
    re.ASCII,
)
_ITEM_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 9: 4, 10: 8, 11: 16, 12: 1, 13: 2}
_MAX_JSON = 256 * 2**20


def scan_archive(path: Path, spec: str) -> None:
    """Check that a ``.pt2`` archive holds plain tensors and a plain graph.

    Args:
        path: The file.
        spec: The path as typed, for errors.

    Raises:
        TrustError: It holds anything else.
        ModelError: It is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            require_plain_zip(archive, path)
        reader = torch._C.PyTorchFileReader(str(path))
        _require_known_members(reader.get_all_records())
        for config, (folder, names) in _CONFIGS.items():
            _require_raw_tensors(reader, config, folder, names)
        _require_plain_samples(bytes(reader.get_record(_SAMPLES)))
        require_plain_program(_parsed(reader, _PROGRAM, schema.ExportedProgram))
    except Unplain as reason:
        raise TrustError(
            f"{spec} holds {reason}; without --trust only plain tensors, operators and integer "
            "expressions are read",
            hint="if you trust whoever made it, add --trust: reading it then runs what it contains",
        ) from None
    except ModelError:
        raise
    except Exception as reason:
        raise ModelError(
            f"{spec} is damaged, or of a format that this torch does not read "
            f"({type(reason).__name__}: {str(reason).splitlines()[0] if str(reason) else ''})",
            hint="export and save the model again",
        ) from reason


def _require_known_members(records: list[str]) -> None:
    for name in records:
        if name not in _REQUIRED and not _HARMLESS.fullmatch(name):
            raise Unplain(f"the member {name}")
    missing = [name for name in _REQUIRED if name not in records]
    if missing:
        raise ValueError(f"no {missing[0]}")


def _parsed(reader: torch._C.PyTorchFileReader, name: str, kind: type[Any]) -> Any:
    content = bytes(reader.get_record(name))
    if len(content) > _MAX_JSON:
        raise Unplain(f"a {name} of {len(content) // 2**20} MiB")
    # torch's own parser, so that the scan sees exactly what the loader will see.
    return _dict_to_dataclass(kind, json.loads(content.decode("utf-8")))


def _require_raw_tensors(
    reader: torch._C.PyTorchFileReader, config: str, folder: str, names: re.Pattern[str]
) -> None:
    for name, payload in _parsed(reader, config, schema.PayloadConfig).config.items():
        if payload.use_pickle is not False or payload.tensor_meta is None:
            raise Unplain(f"{name} as a pickle or custom object")
        if not isinstance(payload.path_name, str) or not names.fullmatch(payload.path_name):
            raise Unplain(f"{name} in the member {payload.path_name!r}")
        stored = int(reader.get_record_size(folder + payload.path_name))
        _require_within(payload.tensor_meta, stored, name)


def _require_within(meta: schema.TensorMeta, stored: int, name: str) -> None:
    sizes = [require_plain_dimension(size) for size in meta.sizes]
    strides = [require_plain_dimension(stride) for stride in meta.strides]
    offset = require_plain_dimension(meta.storage_offset)
    if meta.device.type != "cpu":
        raise ModelError(
            f"{name} was saved on {meta.device.type}", hint="export and save the model on the CPU"
        )
    if len(sizes) != len(strides):
        raise ValueError(f"{name} has {len(sizes)} sizes and {len(strides)} strides")
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    elements = stored // _ITEM_BYTES.get(int(meta.dtype), 1)
    if prod(sizes) and last >= elements:
        raise ValueError(f"{name} reaches past its {stored} stored bytes")


def _require_plain_samples(content: bytes) -> None:
    # torch.export.load falls back to unrestricted unpickling when the restricted one fails for any
    # reason, so it is not enough to list the names it wants: it has to succeed.
    if not content:
        return
    try:
        torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception as reason:
        raise Unplain("sample inputs that are not plain tensors") from reason
