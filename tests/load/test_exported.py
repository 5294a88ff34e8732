"""Exported programs: plain ones are read, and nothing in an archive gets to run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphprune.errors import ModelError, TrustError
from graphprune.graph import trace
from graphprune.load import ModelSource, load_model
from graphprune.load.exported import read_exported
from tests.load.helpers import (
    CONSTANTS,
    PROGRAM,
    SAMPLES,
    WEIGHTS,
    Touch,
    edited,
    export_to,
    forge,
    pickled,
    saved,
    small_cnn,
)

Records = dict[str, bytes]


def test_a_program_loads_and_is_equal(tmp_path: Path) -> None:
    model = small_cnn().eval()
    path = tmp_path / "m.pt2"
    export_to(path, model, torch.randn(3, 3, 16, 12))

    loaded = load_model(ModelSource(spec=str(path)))

    x = torch.randn(5, 3, 16, 12)
    torch.testing.assert_close(loaded.module(x), model(x), rtol=0, atol=0)
    assert [value.shape for value in loaded.example_inputs] == [(2, 3, 16, 12)]
    assert loaded.source.input_shapes == ((3, 16, 12),)
    assert loaded.notes == ()


def test_tied_weights_stay_tied_in_the_trace(tmp_path: Path) -> None:
    model = _TiedTokens().eval()
    path = tmp_path / "m.pt2"
    export_to(path, model, torch.randint(0, 9, (2, 5)))

    loaded = load_model(ModelSource(spec=str(path)))
    traced = trace(loaded.module, loaded.example_inputs).program.module

    for network in (loaded.module, traced):
        assert network.get_parameter("head.weight") is network.get_parameter("tokens.weight")


class _TiedTokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.head = nn.Embedding(9, 6), nn.Linear(6, 9, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.tokens(tokens).tanh())
        return logits


def test_sizes_computed_in_the_graph_are_plain(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.MaxPool2d(2), nn.ReLU())
    path = tmp_path / "m.pt2"
    auto = torch.export.Dim.AUTO
    shapes = ({0: auto, 2: auto, 3: auto},)
    torch.export.save(
        torch.export.export(model, (torch.randn(2, 3, 32, 40),), dynamic_shapes=shapes), path
    )
    assert read_exported(str(path), trust=False).fixed_batch is None


def test_a_fixed_batch_is_kept_and_told(tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    export_to(path, small_cnn(), torch.randn(3, 3, 16, 16), dynamic=False)
    loaded = load_model(ModelSource(spec=str(path)))
    assert loaded.example_inputs[0].shape[0] == 3
    assert loaded.notes == ("the exported program takes batches of 3 only",)


def test_token_inputs_come_from_the_file(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 2))
    path = tmp_path / "m.pt2"
    export_to(path, model, torch.tensor([[9, 1], [2, 3], [4, 5]]))
    loaded = load_model(ModelSource(spec=str(path)))
    assert loaded.example_inputs[0].tolist() == [[9, 1], [2, 3]]


def test_inputs_without_samples_come_from_the_graph(records: Records, tmp_path: Path) -> None:
    records[SAMPLES] = b""
    draft = read_exported(str(forge(tmp_path / "m.pt2", records)), trust=False)
    assert [tuple(value.shape[1:]) for value in draft.stored_inputs] == [(3, 16, 12)]


def test_named_inputs_are_refused(tmp_path: Path) -> None:
    program = torch.export.export(
        small_cnn().eval(), (), {"input": torch.randn(2, 3, 16, 16)}, strict=False
    )
    torch.export.save(program, tmp_path / "m.pt2")
    with pytest.raises(ModelError, match="takes inputs that are not tensors"):
        read_exported(str(tmp_path / "m.pt2"), trust=False)


# --- attacks ---------------------------------------------------------------------------------


def _refused(records: Records, tmp_path: Path, match: str) -> None:
    path = forge(tmp_path / "evil.pt2", records)
    with pytest.raises(TrustError, match=match) as caught:
        read_exported(str(path), trust=False)
    assert "--trust" in str(caught.value.hint)


def test_sample_inputs_cannot_run_code(records: Records, tmp_path: Path, canary: Path) -> None:
    records[SAMPLES] = saved(((Touch(canary),), {}))
    _refused(records, tmp_path, "sample inputs that are not plain tensors")
    assert not canary.exists()
    with pytest.raises(ModelError):
        read_exported(str(tmp_path / "evil.pt2"), trust=True)
    assert canary.exists(), "the attack works, and the scan is what stops it"


def test_a_config_cannot_ask_for_unpickling(records: Records, tmp_path: Path, canary: Path) -> None:
    def use_pickle(config: Any) -> None:
        next(iter(config["config"].values()))["use_pickle"] = True

    records["data/weights/weight_0"] = saved(Touch(canary))
    records[WEIGHTS] = edited(records[WEIGHTS], use_pickle)
    _refused(records, tmp_path, "as a pickle or custom object")
    assert not canary.exists()


@pytest.mark.parametrize("member", ["custom_obj_0", "opaque_obj_0", "../x", "weight_0", "tensor_"])
def test_constants_cannot_be_objects(
    records: Records, tmp_path: Path, canary: Path, member: str
) -> None:
    meta = {
        "path_name": member,
        "is_param": False,
        "use_pickle": False,
        "tensor_meta": {
            "dtype": 7,
            "sizes": [],
            "requires_grad": False,
            "device": {"type": "cpu"},
            "strides": [],
            "storage_offset": {"as_int": 0},
            "layout": 7,
        },
    }
    records[CONSTANTS] = edited(records[CONSTANTS], lambda c: c["config"].update(c=meta))
    _refused(records, tmp_path, "in the member")
    records["data/constants/opaque_obj_0"] = pickled(Touch(canary))
    _refused(records, tmp_path, r"the member data/constants/opaque_obj_0")
    assert not canary.exists()


@pytest.mark.parametrize(
    "member",
    [
        "data/aotinductor/model/model.so",
        "data/constants/custom_obj_0",
        "data/weights/model.pt",
        "data/constants/model.pt",
        "models/other.json",
        "data/executorch/x",
        "serialized_exported_program.json",
    ],
)
def test_unknown_members_are_refused(records: Records, tmp_path: Path, member: str) -> None:
    _refused(records | {member: b"{}"}, tmp_path, f"the member {member}")


def test_texts_beside_the_program_are_harmless(records: Records, tmp_path: Path) -> None:
    path = forge(tmp_path / "m.pt2", records | {"extra/plan.json": b"{}"})
    assert read_exported(str(path), trust=False).is_exported


def _dimension(text: str) -> Callable[[Any], None]:
    def change(program: Any) -> None:
        values = program["graph_module"]["graph"]["tensor_values"]
        values["relu"]["sizes"][0] = {"as_expr": {"expr_str": text, "hint": {"as_int": 3}}}

    return change


@pytest.mark.parametrize(
    "attack",
    [
        "__import__('os').system('touch {canary}')",
        "Symbol(\"s0')\") or __import__('os').system('touch {canary}')",
        "Add(Integer(1), open('{canary}', 'w').write('x'))",
        "(lambda: 1)()",
        "s0.__class__",
        "Integer(__import__('os').system('touch {canary}'))",
        "9**9**9**9",
        "Pow(Pow(Integer(9), Integer(8)), Integer(8))",
    ],
)
def test_expressions_are_not_evaluated(
    records: Records, tmp_path: Path, canary: Path, attack: str
) -> None:
    change = _dimension(attack.format(canary=canary))
    records[PROGRAM] = edited(records[PROGRAM], change)
    _refused(records, tmp_path, "the expression")
    assert not canary.exists()


def test_the_expression_attack_is_real(records: Records, tmp_path: Path, canary: Path) -> None:
    change = _dimension(f"__import__('os').system('touch {canary}')")
    records[PROGRAM] = edited(records[PROGRAM], change)
    with pytest.raises(ModelError):
        read_exported(str(forge(tmp_path / "m.pt2", records)), trust=True)
    assert canary.exists()


@pytest.mark.parametrize(
    "target",
    [
        "torch.hub.load",
        "torch.load",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.save.default",
        "torch.ops.aten.relu.__class__",
        "torch.ops.load_library",
        "torch.ops.higher_order.cond",
        "torch.serialization.os.system",
        "_operator.attrgetter",
        "_operator.methodcaller",
        "math.__loader__.load_module",
        "#extension:op",
    ],
)
def test_nodes_call_known_operators_only(records: Records, tmp_path: Path, target: str) -> None:
    def change(program: Any) -> None:
        program["graph_module"]["graph"]["nodes"][0]["target"] = target

    records[PROGRAM] = edited(records[PROGRAM], change)
    _refused(records, tmp_path, "the operator")


def _signature(program: Any) -> Any:
    return program["graph_module"]["module_call_graph"][0]["signature"]


def _rename_relu(program: Any, name: str) -> None:
    graph = program["graph_module"]["graph"]
    graph["tensor_values"][name] = graph["tensor_values"].pop("relu")
    for node in graph["nodes"]:
        for argument in (*(value["arg"] for value in node["inputs"]), *node["outputs"]):
            if argument.get("as_tensor") == {"name": "relu"}:
                argument["as_tensor"]["name"] = name


_CODE = "x = __import__('os').system('touch canary'); y"
_ENUM = '{"__enum__": true, "fqn": "antigravity:x", "name": "x"}'


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda p: _rename_relu(p, _CODE), "the name"),
        (lambda p: _signature(p).update(forward_arg_names=[_CODE]), "the name"),
        (lambda p: p.update(guards_code=["__import__('os').system('x')"]), "the guard"),
        (lambda p: p.update(verifiers=["a b"]), "the name"),
        (
            lambda p: p["range_constraints"].update({"u99999999": {"min_val": 0, "max_val": 1}}),
            "the symbol",
        ),
        (
            lambda p: _signature(p).update(
                out_spec=f'[1, {{"type": "builtins.dict", "context": {_ENUM!r}, '
                '"children_spec": []}]'.replace("'", '"')
            ),
            "the structure",
        ),
        (
            lambda p: _signature(p).update(
                out_spec='[1, {"type": "collections.defaultdict", "context": '
                '{"default_factory_module": "antigravity"}, "children_spec": []}]'
            ),
            "the structure",
        ),
        (
            lambda p: p["graph_module"]["graph"]["nodes"][0]["inputs"].append(
                {"name": "f", "arg": {"as_operator": "torch.hub.load"}, "kind": 1}
            ),
            "an operator as an argument",
        ),
        (
            lambda p: p["graph_module"]["graph"]["nodes"][0]["inputs"].append(
                {"name": "f", "arg": {"as_custom_obj": {"name": "a", "class_fqn": "b"}}, "kind": 1}
            ),
            "a custom object",
        ),
        (
            lambda p: p["graph_module"]["signature"]["input_specs"].append(
                {"constant_input": {"name": "c", "value": {"as_string": "' or x or '"}}}
            ),
            "a text constant",
        ),
        (
            lambda p: p["graph_module"]["graph"]["inputs"].append({"as_string": "x"}),
            "a text input",
        ),
        (
            lambda p: p["graph_module"]["signature"]["input_specs"][0]["parameter"].update(
                parameter_name="__class__.x"
            ),
            "the parameter name",
        ),
    ],
)
def test_texts_keep_to_their_role(
    records: Records, tmp_path: Path, change: Callable[[Any], None], match: str
) -> None:
    records[PROGRAM] = edited(records[PROGRAM], change)
    _refused(records, tmp_path, match)


# --- damage ----------------------------------------------------------------------------------


def test_weights_must_lie_within_their_bytes(records: Records, tmp_path: Path) -> None:
    def grow(config: Any) -> None:
        config["config"]["0.weight"]["tensor_meta"]["sizes"][0] = {"as_int": 10**9}

    records[WEIGHTS] = edited(records[WEIGHTS], grow)
    with pytest.raises(ModelError, match=r"0\.weight reaches past its \d+ stored bytes"):
        read_exported(str(forge(tmp_path / "m.pt2", records)), trust=False)


def test_programs_from_a_gpu_are_refused(records: Records, tmp_path: Path) -> None:
    def move(config: Any) -> None:
        config["config"]["0.weight"]["tensor_meta"]["device"] = {"type": "cuda", "index": 0}

    records[WEIGHTS] = edited(records[WEIGHTS], move)
    with pytest.raises(ModelError, match="was saved on cuda"):
        read_exported(str(forge(tmp_path / "m.pt2", records)), trust=False)


@pytest.mark.parametrize("name", [PROGRAM, WEIGHTS, "archive_version"])
def test_missing_members(records: Records, tmp_path: Path, name: str) -> None:
    del records[name]
    with pytest.raises(ModelError, match="damaged, or of a format"):
        read_exported(str(forge(tmp_path / "m.pt2", records)), trust=False)


def test_another_archive_version(records: Records, tmp_path: Path) -> None:
    records["archive_version"] = b"7"
    with pytest.raises(ModelError, match="saved by another torch"):
        read_exported(str(forge(tmp_path / "m.pt2", records)), trust=False)


def test_truncated_and_foreign_files(exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    for content in (exported.read_bytes()[:5000], b"not a zip"):
        path.write_bytes(content)
        with pytest.raises(ModelError, match="not an exported program that torch can read"):
            read_exported(str(path), trust=False)


def test_a_pickled_module_under_the_wrong_suffix(tmp_path: Path) -> None:
    torch.save(small_cnn(), tmp_path / "m.pt2")
    with pytest.raises(ModelError) as caught:
        read_exported(str(tmp_path / "m.pt2"), trust=False)
    assert "rename it to end in .pt" in str(caught.value.hint)
