"""DATA in all its forms, and each way in which a file can be wrong."""

from __future__ import annotations

import io
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from graphprune.data import DataSource, load_data
from graphprune.errors import DataError

BYTES = np.arange(6 * 4 * 5 * 3, dtype=np.uint8).reshape(6, 4, 5, 3)
FLOATS = np.random.default_rng(0).normal(size=(6, 3, 4, 5)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2])


class Touch:
    """Pickles into a call of ``os.system`` that makes a file."""

    def __init__(self, canary: Path) -> None:
        self.command = f"touch {canary}"

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


def _x(source: DataSource) -> torch.Tensor:
    return torch.cat([batch.inputs[0] for batch in load_data(source, batch_size=4)])


def test_bytes_are_nhwc_and_scaled(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "d.npz", x=BYTES, y=LABELS.astype(np.uint8))
    batches = load_data(DataSource(spec=str(tmp_path / "d.npz")), batch_size=4)
    expected = torch.from_numpy(BYTES).permute(0, 3, 1, 2).float() / 255
    assert torch.equal(torch.cat([batch.inputs[0] for batch in batches]), expected)
    assert [batch.n_images for batch in batches] == [4, 2]
    assert batches.has_labels
    assert batches.source == "d.npz"


def test_floats_are_nchw_and_kept(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", FLOATS)
    assert torch.equal(_x(DataSource(spec=str(tmp_path / "d.npy"))), torch.from_numpy(FLOATS))
    np.save(tmp_path / "features.npy", FLOATS.reshape(6, -1).astype(">f8"))
    found = _x(DataSource(spec=str(tmp_path / "features.npy")))
    assert found.dtype == torch.float64
    assert torch.equal(found.float(), torch.from_numpy(FLOATS.reshape(6, -1)))


def test_fortran_order(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", np.asfortranarray(FLOATS))
    assert torch.equal(_x(DataSource(spec=str(tmp_path / "d.npy"))), torch.from_numpy(FLOATS))


def test_safetensors(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    content = {"x": torch.from_numpy(FLOATS), "y": torch.from_numpy(LABELS)}
    safetensors.save_file(content, tmp_path / "d.safetensors")
    batches = load_data(DataSource(spec=str(tmp_path / "d.safetensors")))
    assert torch.equal(batches.batches[0].inputs[0], content["x"])
    assert batches.has_labels


def test_normalisation_resizing_and_limit(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=BYTES, y=LABELS)
    mean, std = (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)
    source = DataSource(spec=str(tmp_path / "d.npz"), mean=mean, std=std, limit=5)
    plain = torch.from_numpy(BYTES[:5]).permute(0, 3, 1, 2).float() / 255
    expected = (plain - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(_x(source), expected)
    assert load_data(source).n_images == 5
    resized = DataSource(spec=str(tmp_path / "d.npz"), resize=(8, 6))
    assert load_data(resized).input_shapes == ((3, 8, 6),)
    assert load_data(DataSource(spec=resized.spec, resize=7)).input_shapes == ((3, 7, 7),)


# --- what is wrong with x and y --------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": BYTES, "labels": LABELS}, r"has the keys images, labels; it needs 'x'"),
        ({}, r"has the keys \(none\)"),
        ({"x": BYTES.transpose(0, 3, 1, 2)}, "looks like NCHW"),
        ({"x": BYTES[0]}, r"uint8 of the shape \(4, 5, 3\)"),
        ({"x": FLOATS.transpose(0, 2, 3, 1)}, "looks like NHWC"),
        ({"x": FLOATS[:0]}, r"x is empty \(shape \(0, 3, 4, 5\)\)"),
        ({"x": np.float32(3)}, r"x has the shape \(\)"),
        ({"x": FLOATS[0, 0, 0]}, r"x has the shape \(5,\)"),
        ({"x": BYTES.astype(np.int64)}, r"x is torch\.int64; allowed are uint8 NHWC"),
        ({"x": FLOATS + 1j}, "dtype complex64, not numbers"),
        ({"x": np.array(["a"])}, "dtype <U1, not numbers"),
        ({"x": np.where(FLOATS > 2, np.nan, FLOATS)}, r"NaN or infinity in \d of 6 images"),
        ({"x": FLOATS, "y": LABELS[:4]}, "y has 4 labels for 6 images"),
        ({"x": FLOATS, "y": LABELS * 1.0}, r"y is torch\.float64; labels are whole"),
        ({"x": FLOATS, "y": np.eye(6, dtype=int)}, r"y has the shape \(6, 6\)"),
        ({"x": FLOATS, "y": LABELS - 1}, "the label -1 at image 0"),
    ],
)
def test_bad_contents(tmp_path: Path, content: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "d.npz", **content)
    with pytest.raises(DataError, match=message):
        load_data(DataSource(spec=str(tmp_path / "d.npz")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (0.5, 0.5)}, "--mean has 2 values and .* has 3 channels"),
        ({"std": (1.0, 0.0, 1.0)}, "--std contains 0; it must be positive"),
        ({"resize": 0}, "--resize is 0x0"),
        ({"limit": 0}, "the limit is 0 images"),
    ],
)
def test_bad_preparation(tmp_path: Path, options: dict[str, object], message: str) -> None:
    np.save(tmp_path / "d.npy", BYTES)
    with pytest.raises(DataError, match=message):
        load_data(DataSource(spec=str(tmp_path / "d.npy"), **options))  # type: ignore[arg-type]


def test_features_cannot_be_resized(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", FLOATS.reshape(6, -1))
    with pytest.raises(DataError, match="--resize needs images"):
        load_data(DataSource(spec=str(tmp_path / "d.npy"), resize=3))


def test_a_limit_does_not_hide_a_mismatch(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=FLOATS, y=LABELS[:4])
    with pytest.raises(DataError, match="4 labels for 6 images"):
        load_data(DataSource(spec=str(tmp_path / "d.npz"), limit=2))


# --- what is wrong with the file -------------------------------------------------------------


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    evil = np.array([Touch(canary)], dtype=object)
    np.save(tmp_path / "d.npy", evil, allow_pickle=True)
    np.savez(tmp_path / "x.npz", x=evil, allow_pickle=True)
    np.savez(tmp_path / "y.npz", x=FLOATS[:1], y=evil, allow_pickle=True)
    for name in ("d.npy", "x.npz", "y.npz"):
        with pytest.raises(DataError, match="an array of Python objects"):
            load_data(DataSource(spec=str(tmp_path / name)))
    assert not canary.exists()


def test_a_plain_pickle_is_no_array(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    import pickle

    for name in ("d.npy", "d.npz"):
        (tmp_path / name).write_bytes(pickle.dumps(Touch(canary)))
        with pytest.raises(DataError, match="is damaged or cut short"):
            load_data(DataSource(spec=str(tmp_path / name)))
    assert not canary.exists()


def test_headers_cannot_promise_more_than_there_is(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**6, 10**6, 3)}
    np.lib.format.write_array_header_1_0(buffer, header)
    (tmp_path / "d.npy").write_bytes(buffer.getvalue() + b"\0" * 9)
    with pytest.raises(DataError, match="its header promises 3000000000000000000 bytes and 9 are"):
        load_data(DataSource(spec=str(tmp_path / "d.npy")))


def test_zip_bombs(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((100, 900, 900, 1), dtype=np.uint8))
    with zipfile.ZipFile(tmp_path / "d.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", buffer.getvalue())
    with pytest.raises(DataError, match="x claims to unpack from"):
        load_data(DataSource(spec=str(tmp_path / "d.npz")))


@pytest.mark.parametrize("name", ["d.npy", "d.npz", "d.safetensors"])
def test_truncated_files(tmp_path: Path, name: str) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / name
    if name.endswith("npy"):
        np.save(path, FLOATS)
    elif name.endswith("npz"):
        np.savez(path, x=FLOATS)
    else:
        safetensors.save_file({"x": torch.from_numpy(FLOATS)}, path)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(DataError, match="cut short"):
        load_data(DataSource(spec=str(path)))


def test_missing_unknown_and_empty(tmp_path: Path) -> None:
    (tmp_path / "cifar.npz").write_bytes(b"")
    (tmp_path / "cifar.csv").write_text("1,2")
    with pytest.raises(DataError, match="does not exist") as caught:
        load_data(DataSource(spec=str(tmp_path / "cifr.npz")))
    assert "cifar.npz" in str(caught.value.hint)
    with pytest.raises(DataError, match=r"is empty \(0 bytes\)"):
        load_data(DataSource(spec=str(tmp_path / "cifar.npz")))
    with pytest.raises(DataError, match="is of an unknown kind"):
        load_data(DataSource(spec=str(tmp_path / "cifar.csv")))
    with pytest.raises(DataError, match="none of the forms of DATA"):
        load_data(DataSource(spec="cifar10"))
    with pytest.raises(DataError, match="does not exist") as caught:
        load_data(DataSource(spec=str(tmp_path / "no" / "d.npz")))
    assert "the folder" in str(caught.value.hint)


# --- factories -------------------------------------------------------------------------------

_FACTORIES = """
import torch
x = torch.arange(48.0).reshape(4, 3, 2, 2)
def tensors():
    return x, torch.tensor([0, 1, 0, 1])
def loader():
    return [(x[:2],), (x[2:],)]
def text():
    return "abc"
def fails():
    raise OSError("disk on fire")
"""


@pytest.fixture
def factories(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(_FACTORIES)
    return str(tmp_path / "own.py")


def test_factories(factories: str) -> None:
    source = DataSource(spec=f"{factories}:tensors", limit=3, mean=(1.0,), std=(2.0,))
    assert source.runs_code
    batches = load_data(source)
    assert batches.n_images == 3
    assert batches.has_labels
    assert batches.source == source.spec
    assert batches.batches[0].inputs[0].flatten()[:3].tolist() == [-0.5, 0.0, 0.5]
    assert load_data(DataSource(spec=f"{factories}:loader")).n_images == 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("text", "data is a str"),
        ("fails", "OSError: disk on fire"),
        ("tensor", "the module has no tensor"),
        ("x", "is a Tensor, which cannot be called"),
    ],
)
def test_bad_factories(factories: str, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(DataSource(spec=f"{factories}:{name}"))


def test_factories_resize_themselves(factories: str) -> None:
    with pytest.raises(DataError, match="--resize does not apply"):
        load_data(DataSource(spec=f"{factories}:tensors", resize=4))


def test_files_run_no_code() -> None:
    assert not DataSource(spec="a/b.npz").runs_code
    assert not DataSource(spec="a/folder").runs_code


# --- folders of images -----------------------------------------------------------------------


def _picture(path: Path, color: object, size: tuple[int, int] = (6, 4), mode: str = "RGB") -> None:
    image = pytest.importorskip("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.new(mode, size, color).save(path)


def test_class_folders_give_labels_in_turns(tmp_path: Path) -> None:
    for name, red in (("cat", 10), ("dog", 20)):
        for index in range(3):
            _picture(tmp_path / name / f"{index}.png", (red + index, 0, 0))
    _picture(tmp_path / "dog" / "3.PNG", (23, 0, 0))
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "cat" / "._junk.png").write_text("junk")
    (tmp_path / "cat" / "notes.txt").write_text("junk")
    batches = load_data(DataSource(spec=str(tmp_path), limit=6))
    (batch,) = batches
    assert batch.labels is not None
    assert batch.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert (batch.inputs[0][:, 0, 0, 0] * 255).round().tolist() == [10, 20, 11, 21, 12, 22]
    assert batches.input_shapes == ((3, 4, 6),)
    assert load_data(DataSource(spec=str(tmp_path))).n_images == 7


def test_flat_folders_have_no_labels(tmp_path: Path) -> None:
    _picture(tmp_path / "b.png", 30, mode="L")
    _picture(tmp_path / "a.png", 20, mode="L")
    batches = load_data(DataSource(spec=str(tmp_path)))
    assert not batches.has_labels
    assert batches.input_shapes == ((1, 4, 6),)
    assert (batches.batches[0].inputs[0][:, 0, 0, 0] * 255).round().tolist() == [20, 30]


def test_mixed_modes_become_rgb(tmp_path: Path) -> None:
    _picture(tmp_path / "a.png", 20, mode="L")
    _picture(tmp_path / "b.png", (1, 2, 3, 4), mode="RGBA")
    assert load_data(DataSource(spec=str(tmp_path))).input_shapes == ((3, 4, 6),)


def test_sizes_must_agree_or_be_given(tmp_path: Path) -> None:
    _picture(tmp_path / "a.png", 0, size=(6, 4))
    _picture(tmp_path / "b.png", 0, size=(8, 4))
    with pytest.raises(DataError, match=r"a\.png is 6x4 and b\.png is 8x4"):
        load_data(DataSource(spec=str(tmp_path)))
    assert load_data(DataSource(spec=str(tmp_path), resize=(5, 7))).input_shapes == ((3, 5, 7),)


def test_bad_folders(tmp_path: Path) -> None:
    pytest.importorskip("PIL.Image")
    with pytest.raises(DataError, match="has no images"):
        load_data(DataSource(spec=str(tmp_path)))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG junk")
    with pytest.raises(DataError, match=r"broken\.png is not a readable image"):
        load_data(DataSource(spec=str(tmp_path)))
    _picture(tmp_path / "cat" / "a.png", 0)
    with pytest.raises(DataError, match=r"has both images .* and class folders"):
        load_data(DataSource(spec=str(tmp_path)))


def test_deep_images_are_refused(tmp_path: Path) -> None:
    _picture(tmp_path / "a.png", 3000, mode="I;16")
    with pytest.raises(DataError, match="more than 8 bits"):
        load_data(DataSource(spec=str(tmp_path)))


def test_pillow_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(DataError, match="pillow is needed") as caught:
        load_data(DataSource(spec=str(tmp_path)))
    assert caught.value.hint == "pip install 'graphprune[vision]'"
