"""ONNX files: complete, of a dynamic batch, and as the network computes."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from graphprune.errors import ArtifactError, ModelError, OptionError, TraceError
from graphprune.export import export_onnx, load_program, onnx_file, program_of, save_program
from graphprune.verify.cases import tensors_of
from tests.export.subjects import subject
from tests.helpers import run

NAMES = [
    "DictOutputs",
    "Residual",
    "Concat",
    "Depthwise",
    "TiedHead",
    "TwoInputs",
    "PackedAttention",
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pruned.onnx"


def error(path: Path, network: nn.Module, batch: int) -> float:
    """Return onnxruntime's largest error, relative to the scale of each output."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = network.example_inputs(batch, seed=batch)
    names = [given.name for given in session.get_inputs()]
    values = [leaf.numpy() for leaf in tensors_of(inputs)]
    found = session.run(None, dict(zip(names, values, strict=True)))
    worst = 0.0
    for a, b in zip(run(network, inputs), found, strict=True):
        assert a.shape == b.shape
        if a.numel():
            worst = max(worst, float(np.abs(a.numpy() - b).max() / max(float(a.abs().max()), 1e-6)))
    return worst


@pytest.mark.parametrize("name", NAMES)
def test_onnxruntime_computes_what_torch_computes(name: str, path: Path) -> None:
    pruned = subject(name).pruned

    export_onnx(pruned, path)

    onnx.checker.check_model(path, full_check=True)
    assert max(error(path, pruned, batch) for batch in (1, 2, 5)) < 1e-5


def test_the_batch_is_named(path: Path) -> None:
    export_onnx(subject("TwoInputs").pruned, path)

    graph = onnx.load(path).graph
    for value in (*graph.input, *graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_weights_lie_in_the_one_file(path: Path) -> None:
    pruned = subject("Residual").pruned

    export_onnx(pruned, path)

    stored = {value.name: tuple(value.dims) for value in onnx.load(path).graph.initializer}
    assert [entry.name for entry in path.parent.iterdir()] == ["pruned.onnx"]
    for name in ("stem.0.weight", "a.0.weight", "b.weight", "head.fc.weight"):
        assert stored[name] == pruned.get_parameter(name).shape


def test_big_weights_go_beside_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pruned = subject("Residual").pruned
    monkeypatch.setattr(onnx_file, "_LARGEST_FILE", 100)

    export_onnx(pruned, path)

    assert sorted(e.name for e in path.parent.iterdir()) == ["pruned.onnx", "pruned.onnx.data"]
    assert error(path, pruned, 2) < 1e-5


def test_a_file_and_the_weights_beside_it_change_at_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "_LARGEST_FILE", 100)
    old, new = subject("Residual").pruned, copy.deepcopy(subject("Residual").pruned)
    with torch.no_grad():
        new.get_parameter("head.fc.weight").mul_(2)
    export_onnx(old, path)
    replace, looked = Path.replace, []

    def watched(self: Path, target: Path) -> Path:
        looked.append(error(path, old, 2))  # what whoever is killed here leaves
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    export_onnx(new, path)

    assert len(looked) == 1
    assert looked[0] < 1e-5
    assert error(path, new, 2) < 1e-5
    assert sorted(e.name for e in path.parent.iterdir()) == ["pruned.onnx", "pruned.onnx.1.data"]


def test_a_pair_that_cannot_be_written_leaves_the_old_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "_LARGEST_FILE", 100)
    pruned = subject("Residual").pruned
    export_onnx(pruned, path)
    before = {entry.name: entry.read_bytes() for entry in path.parent.iterdir()}

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ArtifactError, match="No space left"):
        export_onnx(pruned, path)

    assert {entry.name: entry.read_bytes() for entry in path.parent.iterdir()} == before


def test_tied_weights_are_written_once(path: Path) -> None:
    pruned = subject("DictOutputs").pruned
    shape = tuple(pruned.get_parameter("a.weight").shape)

    export_onnx(pruned, path)

    initializers = onnx.load(path).graph.initializer
    assert [tuple(value.dims) for value in initializers].count(shape) == 1


def test_metadata_is_written_with_its_prefix(path: Path) -> None:
    export_onnx(subject("MLP").pruned, path, metadata={"plan_hash": "ab", "graphprune.seed": "3"})

    written = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert written["graphprune.plan_hash"] == "ab"
    assert written["graphprune.seed"] == "3"
    assert written["graphprune.version"]


def test_no_path_of_this_machine_is_written(path: Path) -> None:
    export_onnx(subject("DictOutputs").pruned, path)

    model = onnx.load(path)
    del model.graph.initializer[:]
    assert b".py" not in model.SerializeToString()


def test_nothing_is_printed(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    export_onnx(subject("Residual").pruned, path)

    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


@pytest.mark.parametrize("name", ["Residual", "DictOutputs"])
def test_lowering_gives_what_torchs_own_decomposition_gives(
    name: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruned = subject(name).pruned
    program = program_of(pruned)
    export_onnx(pruned, path, program=program)
    short = onnx.load(path)

    monkeypatch.setattr(onnx_file, "lowered", lambda given: given)
    export_onnx(pruned, path, program=program)

    assert [n.op_type for n in short.graph.node] == [n.op_type for n in onnx.load(path).graph.node]


def test_the_program_is_not_decomposed_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("torch.onnx traced the network again")

    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", fail)
    export_onnx(subject("Residual").pruned, path)

    assert path.exists()


@pytest.mark.parametrize("name", ["Permuted", "ChannelStatistics"])
def test_operators_that_must_be_decomposed_are(name: str, path: Path) -> None:
    pruned = subject(name).pruned

    export_onnx(pruned, path)

    assert error(path, pruned, 3) < 1e-5


def test_pooling_to_several_positions(path: Path) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d((4, 2)), nn.AdaptiveAvgPool2d(3)
    )
    x = torch.randn(2, 3, 8, 8)

    export_onnx(network, path, example_inputs=(x,))

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    assert np.allclose(found, network(x).detach().numpy(), atol=1e-6)


def test_the_network_stays_as_it_was(path: Path) -> None:
    pruned = subject("Trained").pruned.train()
    before = copy.deepcopy(pruned.state_dict())
    code = pruned.code

    export_onnx(pruned, path)

    assert pruned.training
    assert pruned.code == code
    assert all(torch.equal(before[key], value) for key, value in pruned.state_dict().items())
    assert error(path, pruned.eval(), 3) < 1e-5


def test_copies_and_loaded_networks_know_their_inputs(path: Path, tmp_path: Path) -> None:
    save_program(subject("TiedHead").pruned, None, tmp_path / "pruned.pt2")
    for network in (
        copy.deepcopy(subject("TiedHead").pruned),
        load_program(tmp_path / "pruned.pt2"),
    ):
        (tokens,) = network.example_inputs(5, seed=1)
        assert tokens.shape == (5, 5)
        assert tokens.dtype == torch.int64
        assert len({tuple(row) for row in tokens.tolist()}) > 1  # rows of the traced inputs

    export_onnx(load_program(tmp_path / "pruned.pt2"), path)
    assert error(path, subject("TiedHead").pruned, 3) < 1e-5


def test_an_older_opset_can_be_asked_for(path: Path) -> None:
    export_onnx(subject("MLP").pruned, path, opset=18)

    assert onnx.load(path).opset_import[0].version == 18
    assert error(path, subject("MLP").pruned, 2) < 1e-5


@pytest.mark.parametrize("opset", [7, 999])
def test_an_impossible_opset_is_refused(opset: int, path: Path) -> None:
    with pytest.raises(OptionError, match="allowed are 18 to"):
        export_onnx(subject("MLP").pruned, path, opset=opset)
    assert not path.exists()


def test_an_operator_without_translation_is_named(path: Path) -> None:
    with pytest.raises(TraceError, match="linalg_inv"):
        export_onnx(subject("Inverted").pruned, path)
    assert not path.exists()


def test_other_modules_need_example_inputs(path: Path) -> None:
    with pytest.raises(ModelError, match="example_inputs"):
        export_onnx(nn.Linear(3, 2), path)


def test_an_unwritable_place_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot write"):
        export_onnx(subject("MLP").pruned, tmp_path / "file" / "pruned.onnx")


@pytest.mark.slow
def test_resnet18(path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    from graphprune.graph import trace
    from graphprune.surgery import cut
    from tests.helpers import random_kept, randomize

    model = randomize(torchvision.models.resnet18(weights=None)).eval()
    graph = trace(model, (torch.randn(2, 3, 224, 224),))
    pruned = cut(graph, random_kept(graph, 0.3, 0))

    export_onnx(pruned, path)

    assert max(error(path, pruned, batch) for batch in (1, 3)) < 1e-5
