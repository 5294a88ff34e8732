"""Pickled modules: plain ones are read, everything else is refused before it can run."""

from __future__ import annotations

import collections
import functools
import pickle
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from graphprune.errors import ModelError, TrustError
from graphprune.load import ModelSource, load_model
from graphprune.load.allowlist import allowance_for
from graphprune.load.pickled import read_module
from tests.load.helpers import Calls, Touch, forge, records_of, saved, small_cnn


def test_a_pickled_network_loads_and_is_equal(tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.resnet18(num_classes=7)
    path = tmp_path / "model.pt"
    torch.save(model, path)

    loaded = load_model(ModelSource(spec=str(path), input_shapes=((3, 64, 64),)))

    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(loaded.module(x), model.eval()(x), rtol=0, atol=0)
    assert not loaded.module.training
    assert loaded.example_inputs[0].shape == (2, 3, 64, 64)


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "vit_tiny_patch16_224"])
def test_timm_networks_load(tmp_path: Path, name: str) -> None:
    timm = pytest.importorskip("timm")
    torch.save(timm.create_model(name), tmp_path / "m.pt")
    assert isinstance(read_module(str(tmp_path / "m.pt"), trust=False), nn.Module)


def test_partials_and_stored_activations_load(tmp_path: Path) -> None:
    model = nn.TransformerEncoderLayer(8, 2, activation="gelu")
    model.norm_layer = functools.partial(nn.LayerNorm, eps=1e-6)
    torch.save(model, tmp_path / "m.pt")
    loaded = read_module(str(tmp_path / "m.pt"), trust=False)
    assert loaded.norm_layer.func is nn.LayerNorm


def test_code_is_refused_by_name_and_does_not_run(tmp_path: Path, canary: Path) -> None:
    model = small_cnn()
    model.extra = Touch(canary)
    path = tmp_path / "evil.pt"
    path.write_bytes(saved(model))

    with pytest.raises(TrustError, match=r"evil\.pt is a pickle that uses posix\.system") as caught:
        read_module(str(path), trust=False)

    assert "--trust" in str(caught.value.hint)
    assert not canary.exists()
    read_module(str(path), trust=True)
    assert canary.exists()


@pytest.mark.parametrize(
    "called",
    [
        torch.load,
        torch.hub.load,
        torch.fx.GraphModule,
        torch.jit.load,
        nn.Module.load_state_dict,
        eval,
        getattr,
    ],
)
def test_functions_of_torch_are_refused_too(tmp_path: Path, called: object) -> None:
    model = small_cnn()
    model.extra = Calls(called, "x")  # type: ignore[arg-type]
    path = tmp_path / "m.pt"
    path.write_bytes(saved(model))
    with pytest.raises(TrustError, match="is a pickle that uses"):
        read_module(str(path), trust=False)


def test_graph_modules_are_refused_because_they_compile_source(tmp_path: Path) -> None:
    torch.save(torch.fx.symbolic_trace(small_cnn()), tmp_path / "m.pt")
    with pytest.raises(TrustError, match="reduce_graph_module"):
        read_module(str(tmp_path / "m.pt"), trust=False)


def test_layers_may_be_created_but_not_called(tmp_path: Path) -> None:
    model = small_cnn()
    model.extra = Calls(nn.Linear, 2, 3)
    path = tmp_path / "m.pt"
    path.write_bytes(saved(model))
    with pytest.raises(TrustError, match=r"it calls torch\.nn\.modules\.linear\.Linear"):
        read_module(str(path), trust=False)


def test_layers_may_not_be_called_through_a_helper(tmp_path: Path) -> None:
    model = small_cnn()
    model.extra = Calls(torch._tensor._rebuild_from_type_v2, nn.Linear, torch.Tensor, (2, 3), {})
    path = tmp_path / "m.pt"
    path.write_bytes(saved(model))
    with pytest.raises(TrustError, match=r"it calls torch\._tensor\._rebuild_from_type_v2"):
        read_module(str(path), trust=False)


def test_a_layer_with_constructor_arguments_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save(nn.Linear(1, 1), path)
    records = records_of(path)
    # cls, (1,), NEWOBJ instead of cls, (), NEWOBJ
    records["data.pkl"] = b"\x80\x02ctorch.nn.modules.linear\nLinear\nK\x01\x85\x81."
    with pytest.raises(TrustError, match="with arguments"):
        read_module(str(forge(tmp_path / "n.pt", records)), trust=False)


@pytest.mark.parametrize(
    "name",
    [
        "torch.nn.modules.module.OrderedDict",  # a re-export
        "torch.nn.modules.module.torch.hub.load",  # through a module's attribute
        "torch.nn.modules.module.os.system",
        "torch.nn.modules.utils._pair",  # a function
        "torchvision.models.get_model",
        "torchvision.models.resnet.load_state_dict_from_url",
        "torchvision.models.feature_extraction.DualGraphModule",
        "timm.models._features_fx.FeatureGraphNet",
        "timm.create_model",
        "torch.jit._script.RecursiveScriptModule",
        "torch.distributed.nn.api.remote_module.RemoteModule",
        "torch.nn.modules.linear.Linear.forward",
        "torch.nn.modules.linear.Linear\n",
        "functools.reduce",
        "collections.namedtuple",
    ],
)
def test_names_that_are_refused(name: str) -> None:
    assert allowance_for([name]).refused == (name,)


def test_a_class_of_the_users_own_is_refused_and_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = tmp_path / "own_network.py"
    code.write_text("from torch import nn\nclass Net(nn.Linear):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    own = __import__("own_network")
    torch.save(own.Net(3, 2), tmp_path / "m.pt")
    monkeypatch.undo()
    del sys.modules["own_network"]

    with pytest.raises(TrustError, match=r"uses own_network\.Net"):
        read_module(str(tmp_path / "m.pt"), trust=False)
    assert type(read_module(str(tmp_path / "m.pt"), trust=True)).__name__ == "Net"

    del sys.modules["own_network"]
    code.unlink()
    with pytest.raises(
        ModelError, match=r"needs a class that cannot be imported here.*own_network"
    ):
        read_module(str(tmp_path / "m.pt"), trust=True)


def test_weights_only_files_ask_for_the_architecture(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save(small_cnn().state_dict(), path)
    with pytest.raises(ModelError, match="weights only, 9 tensors without") as caught:
        read_module(str(path), trust=False)
    assert f"--weights {path}" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"epoch": 3, "state_dict": {}}, "a checkpoint with the keys epoch, state_dict"),
        ({}, r"the keys \(none\)"),
        (torch.ones(2), "holds a Tensor, not a torch.nn.Module"),
        ([1, 2], "holds a list"),
        (collections.OrderedDict(a=1), "the keys a"),
    ],
)
def test_other_contents_are_named(tmp_path: Path, value: object, message: str) -> None:
    torch.save(value, tmp_path / "m.pt")
    with pytest.raises(ModelError, match=message):
        read_module(str(tmp_path / "m.pt"), trust=False)


def test_the_old_format_is_refused(tmp_path: Path, canary: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save(small_cnn(), path, _use_new_zipfile_serialization=False)
    with pytest.raises(ModelError, match=r"from before torch 1\.6"):
        read_module(str(path), trust=False)
    path.write_bytes(pickle.dumps(Touch(canary)))
    with pytest.raises(ModelError, match=r"from before torch 1\.6"):
        read_module(str(path), trust=False)
    assert not canary.exists()


def test_torchscript_is_refused(tmp_path: Path) -> None:
    # What tells a TorchScript archive apart: compiled code beside the pickle.
    forge(tmp_path / "m.pt", {"data.pkl": b"\x80\x02N.", "constants.pkl": b"", "code/m.py": b""})
    with pytest.raises(ModelError, match="a TorchScript archive") as caught:
        read_module(str(tmp_path / "m.pt"), trust=False)
    assert "eager" in str(caught.value.hint)


def test_an_exported_program_under_the_wrong_suffix(exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    path.write_bytes(exported.read_bytes())
    with pytest.raises(ModelError, match="an exported program") as caught:
        read_module(str(path), trust=False)
    assert caught.value.hint == "rename it to end in .pt2"


@pytest.mark.parametrize("keep", [1, 100, 0.5, 0.95])
def test_truncated_files(tmp_path: Path, keep: float) -> None:
    whole = saved(small_cnn())
    path = tmp_path / "m.pt"
    path.write_bytes(whole[: int(keep if keep >= 1 else keep * len(whole))])
    for trust in (False, True):
        with pytest.raises(ModelError, match="damaged, cut short"):
            read_module(str(path), trust=trust)


def test_a_damaged_pickle_inside_a_good_archive(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save(small_cnn(), path)
    records = records_of(path)
    records["data.pkl"] = records["data.pkl"][:200]
    with pytest.raises(ModelError, match="cannot be read"):
        read_module(str(forge(tmp_path / "n.pt", records)), trust=False)


def test_compressed_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", b"\0" * 10**7)
    with pytest.raises(ModelError, match="its members are compressed"):
        read_module(str(path), trust=False)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["m/data.pkl", "m/../x"], "leaves the archive"),
        (["m/data.pkl", "n/data.pkl"], "more than one folder"),
        (["m/data.pkl", "m/DATA.pkl"], "share a name"),
        (["m/README"], "a zip of something else"),
    ],
)
def test_archives_that_torch_did_not_write(tmp_path: Path, names: list[str], message: str) -> None:
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    with pytest.raises(ModelError, match=message):
        read_module(str(path), trust=False)


def test_missing_empty_and_folder(tmp_path: Path) -> None:
    (tmp_path / "resnet18.pt").write_bytes(b"")
    with pytest.raises(ModelError, match="does not exist") as caught:
        read_module(str(tmp_path / "resnet8.pt"), trust=False)
    assert "resnet18.pt" in str(caught.value.hint)
    with pytest.raises(ModelError, match=r"is empty \(0 bytes\)"):
        read_module(str(tmp_path / "resnet18.pt"), trust=False)
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(ModelError, match="is a folder"):
        read_module(str(tmp_path / "folder.pt"), trust=False)
