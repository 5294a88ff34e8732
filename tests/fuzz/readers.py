"""Every file that graphprune reads: how a good one is made, and what reads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from graphprune.artifacts import ManifestFile, PlanFile, RankingFile, read
from graphprune.checkpoint import StateStore
from graphprune.comparison import CompareFile
from graphprune.data import DataSource, load_data
from graphprune.export import load_program
from graphprune.load.pickled import read_module
from graphprune.load.weights import apply_weights
from graphprune.runtime import open_session
from graphprune.verify.contents import read_onnx
from tests.load.helpers import export_to, small_cnn

IMAGES = np.arange(4 * 5 * 6 * 3, dtype=np.uint8).reshape(4, 5, 6, 3)
LABELS = np.array([0, 1, 2, 0])


@dataclass(frozen=True)
class Reader:
    """A kind of file.

    Args:
        name: Of the file.
        make: Writes a good one, from nothing.
        read: Reads one.
    """

    name: str
    make: Callable[[Path], None]
    read: Callable[[Path], object]


def _module(path: Path) -> None:
    torch.save(small_cnn(), path)


def _weights(path: Path) -> None:
    torch.save(small_cnn().state_dict(), path)


def _old_weights(path: Path) -> None:
    torch.save(small_cnn().state_dict(), path, _use_new_zipfile_serialization=False)


def _safe_weights(path: Path) -> None:
    save_file(small_cnn().state_dict(), path)


def _read_weights(path: Path) -> None:
    apply_weights(small_cnn(), str(path), trust=False)


def _program(path: Path) -> None:
    export_to(path, small_cnn(), torch.randn(3, 3, 8, 8))


def _onnx(path: Path) -> None:
    program = torch.onnx.export(
        small_cnn().eval(), (torch.randn(2, 3, 8, 8),), dynamo=True, verbose=False
    )
    assert program is not None
    program.save(path)


def _read_onnx(path: Path) -> None:
    read_onnx(path)
    open_session(path, "cpu")


def _npz(path: Path) -> None:
    np.savez(path, x=IMAGES, y=LABELS)


def _packed(path: Path) -> None:
    np.savez_compressed(path, x=IMAGES, y=LABELS)


def _npy(path: Path) -> None:
    np.save(path, IMAGES)


def _safe_images(path: Path) -> None:
    save_file({"x": torch.from_numpy(IMAGES), "y": torch.from_numpy(LABELS)}, path)


def _read_data(path: Path) -> object:
    return load_data(DataSource(spec=str(path)))


def _image(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(IMAGES[0]).save(path)


def _read_folder(path: Path) -> object:
    return load_data(DataSource(spec=str(path.parent)))


def _store(path: Path, *, resume: bool) -> StateStore:
    return StateStore(path=path, model="m", resume=resume, every=0.0)


def _state(path: Path) -> None:
    part = _store(path, resume=False).open(data="d", settings={"seed": 0}).part("group")
    part.save({"values": np.arange(12.0).reshape(3, 4), "rows": np.ones((2, 5), bool)})


def _read_state(path: Path) -> None:
    like = {"values": np.empty((0, 4)), "rows": np.empty((0, 5), bool)}
    _store(path, resume=True).open(data="d", settings={"seed": 0}).part("group").load(like)


def _json(document: dict[str, object]) -> Callable[[Path], None]:
    return lambda path: path.write_text(json.dumps(document, indent=1)) and None


_MODEL = {
    "spec": "m.pt",
    "weights": None,
    "input_shapes": [[3, 8, 8]],
    "sha256": "a" * 64,
    "folder": "/",
    "unpin_outputs": [],
}
_COST = {"units": 3, "params": 30, "macs": 300}
_RANKING: dict[str, object] = {
    "format": "graphprune/ranking/1",
    "criterion": "l1",
    **dict.fromkeys(("game", "estimator", "value", "aggregate", "semivalue", "data")),
    "evaluations": 0,
    "n_images": 0,
    "seed": 0,
    "model_hash": "a" * 64,
    "model": _MODEL,
    "protected": [],
    "notes": [],
    "groups": [{"name": "a", "units": 2, "scores": [1, 2], "stderr": [0, 0], "effort": None}],
}
_PLAN: dict[str, object] = {
    "format": "graphprune/plan/1",
    "removed": {"a.weight": {"0": [1]}},
    "removed_outputs": {},
    "groups": [{"name": "a", "units": 2, "removed_units": [1]}],
    "cost": {"before": _COST, "after": _COST},
    "of": "units",
    "scope": "group",
    "asked": 0.5,
    "reached": 0.5,
    "criterion": "l1",
    "seed": 0,
    "model_hash": "a" * 64,
}
_MANIFEST: dict[str, object] = {
    "format": "graphprune/manifest/1",
    "argv": ["graphprune"],
    "versions": {},
    "seed": 0,
    "model": _MODEL,
    "hashes": {"plan.json": "b" * 64},
    "timings": {"rank": 0.5},
    "repair": {"method": "none", "changed": [], "notes": []},
    **dict.fromkeys(("data", "accuracy", "latency")),
    "validation": {"ok": True, "checks": []},
    "notes": [],
}
_COMPARE: dict[str, object] = {"format": "graphprune/compare/1", "complete": True}

READERS = (
    Reader("model.pt", _module, lambda path: read_module(str(path), trust=False)),
    Reader("weights.pth", _weights, _read_weights),
    Reader("old.pth", _old_weights, _read_weights),
    Reader("weights.safetensors", _safe_weights, _read_weights),
    Reader("model.pt2", _program, load_program),
    Reader("model.onnx", _onnx, _read_onnx),
    Reader("data.npz", _npz, _read_data),
    Reader("packed.npz", _packed, _read_data),
    Reader("data.npy", _npy, _read_data),
    Reader("data.safetensors", _safe_images, _read_data),
    Reader("images/one.png", _image, _read_folder),
    Reader("images/one.jpg", _image, _read_folder),
    Reader("images/one.bmp", _image, _read_folder),
    Reader("images/one.tif", _image, _read_folder),
    Reader("rank-state.npz", _state, _read_state),
    Reader("ranking.json", _json(_RANKING), lambda path: read(path, RankingFile)),
    Reader("plan.json", _json(_PLAN), lambda path: read(path, PlanFile)),
    Reader("manifest.json", _json(_MANIFEST), lambda path: read(path, ManifestFile)),
)

BAD_FROM_THE_START = (
    Reader("compare.json", _json(_COMPARE), lambda path: read(path, CompareFile)),
)
