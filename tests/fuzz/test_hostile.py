"""Files made to do harm: code, bombs, paths that climb, sizes that lie. None of it happens."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import pytest

from graphprune.errors import ArtifactError, InputError
from graphprune.files import write_text
from graphprune.runtime import open_session
from graphprune.verify.contents import read_onnx
from tests.fuzz.permissions import as_nobody
from tests.fuzz.readers import READERS, Reader
from tests.load.helpers import SAMPLES, Touch, forge, records_of, saved, small_cnn

BY_NAME = {reader.name: reader for reader in READERS}


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that exists once code has run."""
    return tmp_path / "canary"


def archive(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for name, content in members.items():
            made.writestr(name, content)
    return buffer.getvalue()


def objects(canary: Path) -> bytes:
    """Return an .npy file whose reading would unpickle."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([Touch(canary)], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def forms_of_code(name: str, good: Path, canary: Path) -> Iterator[bytes]:
    """Yield the forms in which code may come in a file of this name."""
    yield pickle.dumps(Touch(canary))
    yield saved(Touch(canary))
    yield saved({"state_dict": {"0.weight": Touch(canary)}})
    model = small_cnn()
    model.extra = Touch(canary)
    yield saved(model)
    yield objects(canary)
    members = {f"{key}.npy": objects(canary) for key in ("x", "y", "identity", "work on group|a")}
    yield archive(**members)
    if name.endswith(".pt2"):
        forged = forge(good.parent / "forged", {**records_of(good), SAMPLES: saved(Touch(canary))})
        yield forged.read_bytes()


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_code_never_runs(reader: Reader, tmp_path: Path, canary: Path) -> None:
    good = tmp_path / "good" / Path(reader.name).name
    good.parent.mkdir()
    reader.make(good)
    path = tmp_path / "bad" / reader.name
    path.parent.mkdir(parents=True)
    for content in forms_of_code(reader.name, good, canary):
        path.write_bytes(content)
        with pytest.raises(InputError):
            reader.read(path)
        assert not canary.exists()


def test_the_code_is_real(tmp_path: Path, canary: Path) -> None:
    pickle.loads(pickle.dumps(Touch(canary)))
    assert canary.exists()
    canary.unlink()
    np.load(io.BytesIO(objects(canary)), allow_pickle=True)
    assert canary.exists()


# ---- bombs and lies -----------------------------------------------------------------------------


def packed_zeros(name: str, size: int) -> bytes:
    """Return an archive that unpacks to an array of zeros."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (size,)}
    )
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made,
        made.open(name, "w", force_zip64=True) as member,
    ):
        member.write(header.getvalue())
        for _ in range(size >> 20):
            member.write(bytes(1 << 20))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "member"), [("data.npz", "x.npy"), ("rank-state.npz", "work on group|values.npy")]
)
def test_bombs(name: str, member: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(packed_zeros(member, 256 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(InputError, match=r"unpack|compressed"):
        BY_NAME[name].read(path)


@pytest.mark.parametrize("name", ["data.npy", "data.npz", "rank-state.npz"])
def test_arrays_that_promise_more_than_there_is(name: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": (1 << 45, 2)}
    np.lib.format.write_array_header_1_0(buffer, header)
    content = buffer.getvalue() + bytes(16)
    members = {f"{key}.npy": content for key in ("x", "identity", "work on group|values")}
    path = tmp_path / name
    path.write_bytes(archive(**members) if name.endswith("npz") else content)
    with pytest.raises(InputError):
        BY_NAME[name].read(path)


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_files_of_absurd_size(reader: Reader, tmp_path: Path) -> None:
    path = tmp_path / reader.name
    path.parent.mkdir(exist_ok=True)
    reader.make(path)
    os.truncate(path, 1 << 40)  # a hole, which takes no room
    with suppressed():  # what follows the end of some formats does not count
        reader.read(path)


@pytest.mark.parametrize(
    "name", ["model.pt", "weights.pth", "model.pt2", "data.npz", "rank-state.npz"]
)
@pytest.mark.parametrize("climbing", ["../escaped", "/escaped", "a/../../escaped", "..\\escaped"])
def test_names_that_climb(name: str, climbing: str, tmp_path: Path) -> None:
    path = tmp_path / "inner" / name
    path.parent.mkdir()
    BY_NAME[name].make(path)
    with zipfile.ZipFile(path, "a") as made:
        made.writestr(climbing, b"harm")
    with suppressed():
        BY_NAME[name].read(path)
    assert [entry.name for entry in tmp_path.rglob("*")] == ["inner", name]


@contextmanager
def suppressed() -> Iterator[None]:
    """Let a reader refuse; whether it does is not the question."""
    try:
        yield
    except InputError:
        return


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "link", "folder/../../secret"])
def test_weights_of_onnx_files_lie_beside_them(location: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(64))
    folder = tmp_path / "run"
    (folder / "folder").mkdir(parents=True)
    (folder / "link").symlink_to(secret)
    weight = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[4])
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    value = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [4])
    node = onnx.helper.make_node("Identity", ["w"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [], [value], [weight])
    path = folder / "model.onnx"
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    with pytest.raises(ArtifactError):
        read_onnx(path)
    with pytest.raises(ArtifactError):
        open_session(path, "cpu")


@pytest.mark.parametrize(
    "content",
    [
        "[" * 200_000,
        '{"a":' * 200_000,
        '{"format": ' + "9" * 100_000 + "}",
        '{"format": 1e999}',
        "\ufeff{}",
        '{"format": "graphprune/ranking/2"}',
        '{"format": "graphprune/plan/9"}',
        '{"format": ["graphprune/plan/1"]}',
        '{"format": null, "format": "graphprune/plan/1"}',
    ],
    ids=range(9),
)
@pytest.mark.parametrize("name", ["ranking.json", "plan.json", "manifest.json"])
def test_texts_that_are_no_records(name: str, content: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ArtifactError):
        BY_NAME[name].read(path)


def test_names_from_files_are_not_printed_raw(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"format": "\x1b]0;owned\x07\n"}))
    with pytest.raises(ArtifactError) as caught:
        BY_NAME["plan.json"].read(path)
    assert "\x1b" not in caught.value.message
    assert "\n" not in caught.value.message


# ---- permissions --------------------------------------------------------------------------------


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that everybody may enter, which pytest's are not."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
@pytest.mark.parametrize("closed", ["file", "folder"])
def test_what_may_not_be_read(reader: Reader, closed: str, public: Path) -> None:
    path = public / "closed" / reader.name
    path.parent.mkdir(parents=True)
    reader.make(path)
    reader.read(path)
    target = path if closed == "file" else public / "closed"
    target.chmod(0)
    with as_nobody(), pytest.raises(InputError):
        reader.read(path)
    target.chmod(0o755)


def test_where_may_not_be_written(public: Path) -> None:
    (public / "plan.json").write_text("old")
    with as_nobody(), pytest.raises(ArtifactError, match="Permission denied"):
        write_text(public / "plan.json", "new")
    assert (public / "plan.json").read_text() == "old"
    assert [entry.name for entry in public.iterdir()] == ["plan.json"]
