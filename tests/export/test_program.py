"""Saved and read back, a pruned network is the same network."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from graphprune.errors import ArtifactError, ModelError, TrustError
from graphprune.export import load_program, program_of, save_program
from graphprune.surgery import PrunedModel
from graphprune.tracing import named_tensors
from tests.export.subjects import subject
from tests.helpers import run

NAMES = ["DictOutputs", "Residual", "Depthwise", "TiedWeights", "TiedHead", "TwoInputs", "MLP"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pruned.pt2"


@pytest.mark.parametrize("name", NAMES)
def test_a_round_trip_keeps_everything(name: str, path: Path) -> None:
    pruned = subject(name).pruned

    save_program(pruned, None, path)
    loaded = load_program(path)

    ours, theirs = named_tensors(pruned), named_tensors(loaded)
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        assert torch.equal(tensor, theirs[key])
        assert tensor.dtype == theirs[key].dtype
        assert isinstance(tensor, nn.Parameter) == isinstance(theirs[key], nn.Parameter)
        assert tensor.requires_grad == theirs[key].requires_grad
    assert pruned.state_dict().keys() == loaded.state_dict().keys()
    for batch in (1, 2, 5):
        inputs = pruned.example_inputs(batch, seed=batch)
        for a, b in zip(run(pruned, inputs), run(loaded, inputs), strict=True):
            assert torch.equal(a, b)


def test_outputs_keep_their_structure(path: Path) -> None:
    pruned = subject("DictOutputs").pruned

    save_program(pruned, None, path)
    outputs = load_program(path)(*pruned.example_inputs(3))

    assert list(outputs) == ["logits", "extra"]
    assert isinstance(outputs["extra"], tuple)
    assert outputs["logits"].shape == (3, 4)


def test_tied_parameters_come_back_as_one(path: Path) -> None:
    save_program(subject("DictOutputs").pruned, None, path)

    loaded = load_program(path)

    assert loaded.get_parameter("a.weight") is loaded.get_parameter("b.weight")
    assert len(list(loaded.parameters())) == 9


def test_parameters_that_are_only_equal_stay_two(path: Path) -> None:
    pruned = subject("Trained").pruned
    with torch.no_grad():
        pruned.get_parameter("bn1.bias").zero_()
        pruned.get_parameter("bn1.weight").zero_()

    save_program(pruned, None, path)
    loaded = load_program(path)

    assert loaded.get_parameter("bn1.bias") is not loaded.get_parameter("bn1.weight")


def test_the_loaded_network_trains_like_the_saved_one(path: Path) -> None:
    pruned = subject("Trained").pruned
    save_program(pruned, None, path)
    loaded, inputs = load_program(path), pruned.example_inputs(4)

    losses = []
    for network in (pruned, loaded):
        torch.manual_seed(0)
        network.train()
        loss = network(*inputs).square().sum()
        loss.backward()
        losses.append(loss.item())
        network.eval()

    assert losses[0] == losses[1]
    for name, parameter in pruned.named_parameters():
        assert torch.equal(parameter.grad, loaded.get_parameter(name).grad)
    mean = pruned.get_buffer("bn1.running_mean")
    assert torch.equal(mean, loaded.get_buffer("bn1.running_mean"))
    assert not torch.equal(mean, subject("Trained").pruned.get_buffer("bn1.running_mean"))


def test_saving_in_training_mode_saves_the_evaluating_network(path: Path) -> None:
    pruned = subject("Trained").pruned.train()

    save_program(pruned, None, path)

    assert pruned.training
    inputs = pruned.example_inputs(3)
    assert torch.equal(run(load_program(path), inputs)[0], run(pruned.eval(), inputs)[0])


def test_a_loaded_network_can_be_saved_again(path: Path, tmp_path: Path) -> None:
    save_program(subject("TiedHead").pruned, None, path)
    again = tmp_path / "again.pt2"

    save_program(load_program(path), None, again)

    inputs = subject("TiedHead").pruned.example_inputs(3)
    first, second = run(load_program(path), inputs), run(load_program(again), inputs)
    assert torch.equal(first[0], second[0])


def test_half_precision_survives(path: Path) -> None:
    pruned = subject("Residual").pruned.half()

    save_program(pruned, None, path)
    loaded = load_program(path)

    assert {p.dtype for p in loaded.parameters()} == {torch.float16}
    assert loaded.example_inputs(2)[0].dtype == torch.float16


def test_channels_last_weights_survive(path: Path) -> None:
    pruned = subject("Residual").pruned.to(memory_format=torch.channels_last)

    save_program(pruned, None, path)

    for name, tensor in load_program(path).named_parameters():
        assert torch.equal(tensor, pruned.get_parameter(name))


def test_no_path_of_this_machine_is_written(path: Path) -> None:
    save_program(subject("DictOutputs").pruned, None, path)

    with zipfile.ZipFile(path) as archive:
        text = b"".join(archive.read(n) for n in archive.namelist() if n.endswith(".json"))
        roots = {name.split("/")[0] for name in archive.namelist()}

    assert b".py" not in text
    assert str(Path(__file__).parents[1]).encode() not in text
    assert roots == {"archive"}


def test_a_program_is_made_once_for_several_files(path: Path) -> None:
    pruned = subject("Residual").pruned
    program = program_of(pruned)

    save_program(pruned, None, path, program=program)

    inputs = pruned.example_inputs(2)
    assert torch.equal(run(load_program(path), inputs)[0], run(pruned, inputs)[0])


def test_other_modules_need_example_inputs(path: Path) -> None:
    with pytest.raises(ModelError, match="example_inputs"):
        save_program(nn.Linear(3, 2), None, path)
    save_program(nn.Linear(3, 2), (torch.randn(2, 3),), path)
    assert isinstance(load_program(path), PrunedModel)


def test_a_failed_save_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.export, "save", fail)
    with pytest.raises(ArtifactError, match="No space left"):
        save_program(subject("MLP").pruned, None, path)

    assert path.read_bytes() == b"old"
    assert [entry.name for entry in path.parent.iterdir()] == ["pruned.pt2"]


def test_a_missing_file_is_one_sentence(path: Path) -> None:
    with pytest.raises(ModelError, match=r"pruned\.pt2"):
        load_program(path)


def test_a_truncated_file_is_refused(path: Path) -> None:
    save_program(subject("MLP").pruned, None, path)
    path.write_bytes(path.read_bytes()[:-200])

    with pytest.raises(ModelError):
        load_program(path)


def test_a_file_with_a_pickle_is_refused(path: Path) -> None:
    save_program(subject("MLP").pruned, None, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data/constants/custom_obj_0", b"cos\nsystem\n")

    with pytest.raises(TrustError, match="custom_obj_0"):
        load_program(path)
