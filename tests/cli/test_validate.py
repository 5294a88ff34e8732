"""validate: a run, two files, any network against any ONNX file; what was changed is caught."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper

from graphprune.export import load_program, save_program
from graphprune.files import sha256_of
from graphprune.load import ModelSource, load_model
from tests.cli.conftest import FACTORY, Run

MODEL = ("net.py:net", "--input-shape", "3,8,8")
FILES = ("graphprune-out/pruned.pt2", "graphprune-out/pruned.onnx")

OWN = '''
import torch
from torch import nn


class Pyramid(nn.Module):
    """Takes images of any size; halves them, so that odd sizes round."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.Conv2d(6, 4, 1)

    def forward(self, x):
        up = nn.functional.interpolate(self.second(self.first(x).relu()), size=x.shape[-2:])
        return up + x[:, :1]


def pyramid():
    return Pyramid()


def other_pyramid():
    torch.manual_seed(1)
    return Pyramid()


def classes():
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 5))


def wide():
    return nn.Linear(7, 5)
'''


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs of one network, made once."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "net.py").write_text(FACTORY)
    for out, ratio in (("graphprune-out", "0.3"), ("other", "0.5")):
        command = ["prune", *MODEL, "--criterion", "l1", "--ratio", ratio, "--out", out, "-q"]
        subprocess.run([sys.executable, "-m", "graphprune_cli", *command], cwd=folder, check=True)
    return folder


@pytest.fixture
def pruned(made: Path, workplace: Path) -> Path:
    """The workplace with these runs; returns the folder of the first."""
    for name in ("graphprune-out", "other"):
        shutil.copytree(made / name, workplace / name)
    return workplace / "graphprune-out"


def edit_onnx(path: Path) -> None:
    """Move one number of one weight."""
    model = onnx.load(path)
    weight = next(value for value in model.graph.initializer if len(value.dims) > 1)
    values = numpy_helper.to_array(weight).copy()
    values.flat[0] += 0.01
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, path)


def edit_pt2(path: Path) -> None:
    """Move one number of one weight."""
    network = load_program(path)
    with torch.no_grad():
        network.get_parameter("head.weight").flatten()[0] += 0.01
    save_program(network, None, path)


def vouch(folder: Path) -> None:
    """Make the manifest vouch for the files as they are now, as a forger would."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["hashes"] = {name: sha256_of(folder / name) for name in manifest["hashes"]}
    del manifest["sha256"]
    path.write_text(json.dumps(manifest))


def flip(path: Path) -> None:
    """Turn the bits of some bytes in the middle."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8] = bytes(255 - byte for byte in content[middle : middle + 8])
    path.write_bytes(bytes(content))


# ---- a run's folder -----------------------------------------------------------------------------


def test_a_run_passes(run: Run, pruned: Path) -> None:
    found = run("validate", "--json", "-q")
    assert found.code == 0
    checks = {check["name"]: check for check in found.json["checks"]}
    assert {
        "masked = pruned",
        "same weights",
        "ONNX checker",
        "opset",
        "external data",
        "dead initializers",
        "dynamic batch",
        "declared sizes",
        "sizes of the plan",
        "execution provider",
        "onnxruntime = torch",
        "without optimization",
    } <= set(checks)
    numbers = checks["onnxruntime = torch"]
    assert 0 < numbers["mean_rel"] <= numbers["p99_rel"] <= numbers["max_rel"] < 1e-5
    assert numbers["mean_abs"] <= numbers["p99_abs"] <= numbers["max_abs"]
    assert numbers["cosine"] == pytest.approx(1)


@pytest.mark.parametrize("name", ["ranking.json", "plan.json", "pruned.pt2", "pruned.onnx"])
def test_a_flipped_file_is_caught(run: Run, pruned: Path, name: str) -> None:
    flip(pruned / name)
    found = run("validate", "-q")
    assert found.code == 2
    assert name in found.stderr


@pytest.mark.parametrize("name", ["plan.json", "pruned.pt2", "pruned.onnx"])
def test_a_file_of_another_run_is_caught(run: Run, pruned: Path, name: str) -> None:
    shutil.copy(pruned.parent / "other" / name, pruned / name)
    found = run("validate", "-q")
    assert found.code == 2
    assert f"{name} is not the file that manifest.json vouches for" in found.stderr


@pytest.mark.parametrize(
    ("forge", "failing"),
    [
        (lambda folder: edit_onnx(folder / "pruned.onnx"), "onnxruntime = torch"),
        (lambda folder: edit_pt2(folder / "pruned.pt2"), "same weights"),
        (lambda folder: shutil.copy(folder.parent / "other/plan.json", folder), "same weights"),
        (
            lambda folder: shutil.copy(folder.parent / "other/pruned.onnx", folder),
            "sizes of the plan",
        ),
    ],
    ids=["weights of the ONNX file", "weights of the pt2 file", "stale plan", "another ONNX file"],
)
def test_a_forged_manifest_does_not_help(
    run: Run, pruned: Path, forge: Callable[[Path], object], failing: str
) -> None:
    forge(pruned)
    vouch(pruned)
    found = run("validate", "-q", "--json")
    assert found.code == 1
    assert failing in {check["name"] for check in found.json["checks"] if not check["ok"]}


def test_another_original_is_caught(run: Run, pruned: Path) -> None:
    source = pruned.parent / "net.py"
    source.write_text(source.read_text().replace("return Net()", "return Net().requires_grad_()"))
    assert run("validate", "-q").code == 0
    seeded = "torch.manual_seed(5); return Net()"
    source.write_text(source.read_text().replace("return Net().requires_grad_()", seeded))
    found = run("validate", "-q")
    assert found.code == 2
    assert "is not the network that was pruned" in found.stderr


# ---- two files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pruned.onnx", "pruned.pt2"])
def test_one_moved_weight_in_two_files_is_caught(run: Run, pruned: Path, name: str) -> None:
    (edit_onnx if name.endswith("onnx") else edit_pt2)(pruned / name)
    found = run("validate", *FILES, "-q")
    assert found.code == 1
    assert "NOT the same network" in found.stdout


def test_a_failure_is_located(run: Run, pruned: Path) -> None:
    edit_onnx(pruned / "pruned.onnx")
    found = run("validate", *FILES, "--out", "found", "-q")
    assert found.code == 1
    text = " ".join(found.stdout.split())
    assert "first difference: node" in text
    assert "module: stem" in text
    assert "group: stem.weight" in text
    assert "found/divergence/submodel.onnx" in text
    assert max(map(len, found.stdout.splitlines())) <= 80
    divergence = run("validate", *FILES, "--out", "found", "-q", "--json").json["divergence"]
    assert divergence["groups"] == ["stem.weight"]
    for file in divergence["files"]:
        assert (pruned.parent / file).is_file()


def test_the_files_of_two_runs_are_caught(run: Run, pruned: Path) -> None:
    assert run("validate", *FILES, "-q").code == 0
    assert run("validate", FILES[0], "other/pruned.onnx", "-q").code == 1


def test_tolerances_batches_and_seeds(run: Run, pruned: Path) -> None:
    edit_onnx(pruned / "pruned.onnx")
    output = onnx.load(pruned / "pruned.onnx").graph.output[0].name
    for tolerance in ("--rtol", "0.9"), ("--rtol", f"{output}=0.9"), ("--atol", "float32=100"):
        assert run("validate", *FILES, *tolerance, "-q").code == 0
    assert run("validate", *FILES, "--rtol", "0.9", "--rtol", f"{output}=1e-9", "-q").code == 1
    more = ("--batches", "3,7", "--seeds", "4,5,6", "--rtol", "0.9", "--json")
    checks = run("validate", *FILES, *more).json["checks"]
    detail = next(c["detail"] for c in checks if c["name"] == "onnxruntime = torch")
    assert "of 6 runs" in detail


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--rtol", "x=y"), "'x=y' is no tolerance"),
        (("--rtol", "-1"), "'-1' is no tolerance"),
        (("--atol", "nan"), "'nan' is no tolerance"),
        (("--rtol", "nothing=1e-3"), "nothing"),
        (("--batches", "0"), "--batches"),
        (("--seeds", "x"), "--seeds"),
        (("--provider", "tpu"), "tpu"),
    ],
)
def test_bad_options(run: Run, pruned: Path, arguments: tuple[str, ...], words: str) -> None:
    found = run("validate", *FILES, *arguments, "-q")
    assert found.code == 2
    assert words in found.stderr


# ---- any network against any file ---------------------------------------------------------------


def export(folder: Path, name: str, dynamic: dict[int, str] | None) -> tuple[str, str]:
    """Write an ONNX file by torch alone; return the network's spec and the file's name."""
    (folder / "own.py").write_text(OWN)
    spec = f"own.py:{name}"
    source = ModelSource(spec=f"{folder}/{spec}", input_shapes=((3, 8, 8),))
    dims = {dim: torch.export.Dim(symbol) for dim, symbol in (dynamic or {}).items()}
    torch.onnx.export(
        load_model(source).module,
        (torch.randn(2, 3, 8, 8),),
        folder / "foreign.onnx",
        dynamo=True,
        verbose=False,
        dynamic_shapes=(dims,) if dims else None,
    )
    return spec, "foreign.onnx"


def test_any_network_against_a_file_of_torch(run: Run, workplace: Path) -> None:
    spec, file = export(workplace, "pyramid", {0: "n", 2: "height", 3: "width"})
    arguments = (file, "--input-shape", "3,8,8", "--json", "-q")
    same = run("validate", spec, *arguments)
    assert same.code == 0, same.stdout
    details = {check["name"]: check["detail"] for check in same.json["checks"]}
    assert "of 3 runs" in details["any height"]
    assert "of 3 runs" in details["any width"]
    assert run("validate", "own.py:other_pyramid", *arguments).code == 1


def test_a_file_of_one_batch_is_compared_on_that(run: Run, workplace: Path) -> None:
    found = run("validate", *export(workplace, "pyramid", None), "--json", "-q")
    assert found.code == 0, found.stdout
    details = {check["name"]: check["detail"] for check in found.json["checks"]}
    assert details["dynamic batch"].startswith("fixed")
    assert "of 2 runs" in details["onnxruntime = torch"]


def test_a_file_of_other_inputs_is_a_finding(run: Run, pruned: Path) -> None:
    (pruned.parent / "own.py").write_text(OWN)
    found = run("validate", "own.py:wide", FILES[1], "--json", "-q")
    assert found.code == 1
    assert "inputs" in [check["name"] for check in found.json["checks"] if not check["ok"]]


def test_accuracy_of_both(run: Run, workplace: Path) -> None:
    files = export(workplace, "classes", {0: "n"})
    found = run("validate", *files, "--data", "images.npz", "--json")
    assert found.code == 0, found.stdout
    details = {check["name"]: check["detail"] for check in found.json["checks"]}
    assert "100.00% of 40 images; accuracy" in details["top-1 agreement on data"]
