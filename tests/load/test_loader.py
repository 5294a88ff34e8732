"""MODEL in all its forms, weights, and example inputs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch as safetensors_torch
import torch
from torch import nn

from graphprune.errors import ModelError, TrustError
from graphprune.load import ModelSource, load_model, model_hash
from graphprune.load.source import SpecKind
from graphprune.load.weights import apply_weights
from tests.load.helpers import Touch, saved, small_cnn

_NETWORK = """
import torch
from torch import nn
from neighbour import WIDTH

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(WIDTH, 4), nn.ReLU(), nn.Linear(4, 2))

def build():
    return Net()

def fails():
    raise RuntimeError("no such depth")

def leaves():
    raise SystemExit

def number():
    return 3

def bare():
    return nn.ReLU()

def lazy():
    return nn.LazyLinear(3)

def poisoned():
    net = Net()
    net[2].bias.data[1] = float("nan")
    return net

def on_meta():
    return nn.Linear(2, 2, device="meta")

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
    def forward(self, left, right, scale=1.0):
        return self.layer(left) + right

def tokens():
    return nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2))

def recurrent():
    return nn.LSTM(3, 4)

def double():
    return Net().double()

made = Net()
constant = 5
"""


@pytest.fixture
def network(tmp_path: Path) -> str:
    (tmp_path / "neighbour.py").write_text("WIDTH = 6\n")
    path = tmp_path / "network.py"
    path.write_text(_NETWORK)
    return str(path)


def _load(spec: str, **options: object) -> object:
    return load_model(ModelSource(spec=spec, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ("a/model.pt", SpecKind.PICKLED),
        ("model.PTH", SpecKind.PICKLED),
        ("m.pt2", SpecKind.EXPORTED),
        ("torchvision:resnet18", SpecKind.TORCHVISION),
        ("timm:resnet18.a1_in1k", SpecKind.TIMM),
        ("package.module:make", SpecKind.FACTORY),
        ("my folder/file.py:make", SpecKind.FACTORY),
        ("file.py", SpecKind.OTHER),
        ("resnet18", SpecKind.OTHER),
        ("", SpecKind.OTHER),
    ],
)
def test_the_form_of_a_spec(spec: str, kind: SpecKind) -> None:
    source = ModelSource(spec=spec)
    assert source.kind is kind
    assert source.runs_code == (kind is SpecKind.FACTORY)


@pytest.mark.parametrize("name", ["build", "Net", "made"])
def test_factories_classes_and_instances(network: str, name: str) -> None:
    before = list(sys.path)
    loaded = load_model(ModelSource(spec=f"{network}:{name}"))
    assert loaded.example_inputs[0].shape == (2, 6)
    assert loaded.notes == ("input shape 6 inferred; pass --input-shape to change it",)
    assert sys.path == before


def test_a_factory_in_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pkg_of_test").mkdir()
    (tmp_path / "pkg_of_test" / "__init__.py").write_text("")
    (tmp_path / "pkg_of_test" / "zoo.py").write_text(
        "from torch import nn\nclass A:\n    make = staticmethod(lambda: nn.Linear(2, 3))\n"
    )
    monkeypatch.chdir(tmp_path)
    loaded = load_model(ModelSource(spec="pkg_of_test.zoo:A.make"))
    assert isinstance(loaded.module, nn.Linear)


def test_random_weights_are_the_same_every_time(network: str) -> None:
    state = torch.get_rng_state()
    first = load_model(ModelSource(spec=f"{network}:build"))
    torch.randn(3)
    second = load_model(first.source)
    assert first.sha256 == second.sha256
    torch.set_rng_state(state)
    torch.testing.assert_close(first.example_inputs, second.example_inputs, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fails", "failed when called without arguments: RuntimeError: no such depth"),
        ("leaves", "failed when called without arguments: SystemExit"),
        ("number", r"gave a int, not a torch\.nn\.Module"),
        ("constant", "is a int, which cannot be called"),
        ("biuld", "the module has no biuld"),
        ("bare", "has no parameters"),
        ("lazy", "weight is lazy and has no shape yet"),
        ("poisoned", r"2\.bias contains NaN or infinity"),
        ("on_meta", "weight is on the meta device"),
        ("Two", r"takes 2 inputs \(left, right\) of unknown shapes"),
        ("tokens", "takes token ids"),
        ("recurrent", "input shape is unknown"),
    ],
)
def test_what_a_factory_may_not_give(network: str, name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load_model(ModelSource(spec=f"{network}:{name}"))
    if name == "biuld":
        assert caught.value.hint == "did you mean build?"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no_such_package.zoo:make", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("missing.py:make", "there is no file missing.py"),
        ("syntax.py:make", "SyntaxError"),
    ],
)
def test_factories_that_cannot_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, message: str
) -> None:
    (tmp_path / "syntax.py").write_text("def make(:\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=message):
        load_model(ModelSource(spec=spec))


def test_several_inputs_and_dtypes(network: str) -> None:
    two = load_model(ModelSource(spec=f"{network}:Two", input_shapes=((3,), (2,))))
    assert [value.shape for value in two.example_inputs] == [(2, 3), (2, 2)]
    assert load_model(ModelSource(spec=f"{network}:double")).example_inputs[0].dtype == torch.double


def test_the_shape_of_the_data_is_used(tmp_path: Path) -> None:
    torch.save(small_cnn(), tmp_path / "m.pt")
    source = ModelSource(spec=str(tmp_path / "m.pt"))
    loaded = load_model(source, data_shape=(3, 20, 24))
    assert loaded.source.input_shapes == ((3, 20, 24),)
    assert loaded.notes == ()
    with pytest.raises(ModelError, match=r"does not run on the data's shape 1,20,24: .*channels"):
        load_model(source, data_shape=(1, 20, 24))


def test_an_explicit_shape_that_does_not_run(tmp_path: Path) -> None:
    torch.save(small_cnn(), tmp_path / "m.pt")
    source = ModelSource(spec=str(tmp_path / "m.pt"), input_shapes=((4, 32, 32),))
    with pytest.raises(ModelError, match=r"does not run on --input-shape 4,32,32: .*channels"):
        load_model(source)


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ((nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 26 * 26, 3)), (1, 28, 28)),
        ((nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 30 * 30, 3)), (3, 32, 32)),
        ((nn.Conv1d(2, 3, 3), nn.Flatten(), nn.Linear(3 * 126, 3)), (2, 128)),
    ],
)
def test_usual_shapes_are_tried(
    tmp_path: Path, layers: tuple[nn.Module, ...], shape: tuple[int, ...]
) -> None:
    torch.save(nn.Sequential(*layers), tmp_path / "m.pt")
    assert load_model(ModelSource(spec=str(tmp_path / "m.pt"))).source.input_shapes == (shape,)


def test_no_usual_shape_runs(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(7, 3))
    torch.save(model, tmp_path / "m.pt")
    with pytest.raises(ModelError, match="input shape is unknown; tried 3,224,224") as caught:
        load_model(ModelSource(spec=str(tmp_path / "m.pt")))
    assert "--input-shape" in str(caught.value.hint)


# --- zoos ------------------------------------------------------------------------------------


def test_torchvision(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    loaded = load_model(ModelSource(spec="torchvision:squeezenet1_1", input_shapes=((3, 64, 64),)))
    assert "the weights are random" in loaded.notes[0]
    with pytest.raises(ModelError, match="torchvision has no model 'resnet19'") as caught:
        load_model(ModelSource(spec="torchvision:resnet19"))
    assert "torchvision:resnet18" in str(caught.value.hint)


def test_timm() -> None:
    pytest.importorskip("timm")
    loaded = load_model(ModelSource(spec="timm:test_resnet.r160_in1k"))
    assert loaded.source.input_shapes == ((3, 160, 160),)
    with pytest.raises(ModelError, match="timm has no model 'resnet1'"):
        load_model(ModelSource(spec="timm:resnet1"))


@pytest.mark.parametrize("package", ["torchvision", "timm"])
def test_missing_packages_name_the_extra(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    for name in (package, f"{package}.models"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModelError, match=f"{package} is needed") as caught:
        load_model(ModelSource(spec=f"{package}:resnet18"))
    assert caught.value.hint == "pip install 'graphprune[vision]'"


# --- weights ---------------------------------------------------------------------------------


def _wrapped(state: dict[str, torch.Tensor]) -> object:
    return {"model_state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}, _wrapped])
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_state_dicts(
    tmp_path: Path, network: str, wrap: Callable[[object], object], suffix: str
) -> None:
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    path = tmp_path / f"w{suffix}"
    torch.save(wrap(model.state_dict()), path)
    loaded = load_model(ModelSource(spec=f"{network}:build", weights=str(path)))
    torch.testing.assert_close(loaded.module.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_old_state_dicts_and_safetensors(tmp_path: Path, network: str) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    state = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)).state_dict()
    torch.save(state, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    safetensors.save_file(dict(state), tmp_path / "w.safetensors")
    hashes = {
        load_model(ModelSource(spec=f"{network}:build", weights=str(tmp_path / name))).sha256
        for name in ("w.pt", "w.safetensors")
    }
    assert len(hashes) == 1


def test_tied_weights_may_be_there_once(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        model[2].weight = model[0].weight
        return model

    saved, model = tied(), tied()
    path = tmp_path / "w.safetensors"
    safetensors_torch.save_model(saved, str(path))
    assert len(safetensors_torch.load_file(path)) == len(saved.state_dict()) - 1
    apply_weights(model, str(path), trust=False)
    torch.testing.assert_close(model.state_dict(), saved.state_dict(), rtol=0, atol=0)
    assert model[0].weight is model[2].weight


def test_weights_that_do_not_fit(tmp_path: Path, network: str) -> None:
    state = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Identity()).state_dict()
    state["other"] = torch.ones(1)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(
        ModelError,
        match=r"does not fit Net: missing: 2\.weight, 2\.bias; unexpected: other; "
        r"wrong shape: 0\.weight is 5x6 and should be 4x6",
    ):
        load_model(ModelSource(spec=f"{network}:build", weights=str(tmp_path / "w.pt")))


def test_weights_that_would_run_code(tmp_path: Path, network: str, canary: Path) -> None:
    path = tmp_path / "w.pt"
    source = ModelSource(spec=f"{network}:build", weights=str(path))
    for old in (False, True):
        torch.save({"a": Touch(canary)}, path, _use_new_zipfile_serialization=not old)
        with pytest.raises(TrustError, match=r"more than tensors: it uses posix\.system"):
            load_model(source)
    assert not canary.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.pt", saved({"epoch": 3, "lr": 0.1}), "a dict with the keys epoch, lr, not a state"),
        ("w.pt", saved([1]), "holds a list, not a state dict"),
        ("w.pt", b"junk" * 9, "damaged, cut short"),
        ("w.pt", saved({"a": torch.ones(99)})[:300], "damaged, cut short"),
        ("w.safetensors", b"junk" * 9, "not a readable safetensors file"),
        ("w.onnx", b"x", "of an unknown kind"),
        ("w.pt", b"", r"is empty \(0 bytes\)"),
    ],
)
def test_bad_weights_files(
    tmp_path: Path, network: str, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=message):
        load_model(ModelSource(spec=f"{network}:build", weights=str(tmp_path / name)))


# --- specs that are none ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "message", "hint"),
    [
        ("resnet18", "none of the forms", "torchvision:resnet18 or timm:resnet18"),
        ("torchvison:resnet18", "importing torchvison for torchvison:resnet18 failed", ""),
        ("model.onnx", "does not exist", ""),
        ("network.py", "is a Python file", "network.py:FACTORY"),
        ("w.safetensors", "holds weights only", "--weights w.safetensors"),
        ("", "none of the forms", ""),
    ],
)
def test_unknown_forms(spec: str, message: str, hint: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load_model(ModelSource(spec=spec))
    assert hint in str(caught.value.hint)


def test_the_hash_counts_values_names_and_class() -> None:
    model = small_cnn()
    before = model_hash(model)
    assert before == model_hash(small_cnn_like(model))
    model[0].weight.data[0, 0, 0, 0] += 1
    assert model_hash(model) != before
    assert model_hash(nn.Linear(1, 1).bfloat16()) != model_hash(nn.Linear(1, 1))


def small_cnn_like(model: nn.Module) -> nn.Module:
    copy = small_cnn()
    copy.load_state_dict(model.state_dict())
    return copy
