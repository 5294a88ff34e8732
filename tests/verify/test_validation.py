"""Validation: passes what is right, and fails loudly and by name what is not."""

from __future__ import annotations

import copy
import weakref
from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from graphprune.data import as_batches
from graphprune.errors import ArtifactError, DataError, OptionError, ValidationError
from graphprune.export import export_onnx, load_program, save_program
from graphprune.graph import trace
from graphprune.runtime import Session, open_session
from graphprune.surgery import PrunedModel, cut
from graphprune.verify import (
    Check,
    Settings,
    ValidationReport,
    check_masked,
    raise_for,
    validate,
    validation,
)
from tests.export.subjects import subject
from tests.helpers import random_kept, randomize


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exported")


def exported(name: str, folder: Path) -> Path:
    """Return the ONNX file of a subject, made once."""
    path = folder / f"{name}.onnx"
    if not path.exists():
        export_onnx(subject(name).pruned, path)
    return path


def by_name(report: ValidationReport) -> dict[str, Check]:
    return {check.name: check for check in report.checks}


def damaged(pruned: PrunedModel, name: str, by: float) -> PrunedModel:
    """Return a copy with one number of one tensor moved."""
    other = copy.deepcopy(pruned)
    with torch.no_grad():
        dict(other.state_dict())[name].flatten()[0] += by
    return other


@pytest.mark.parametrize("name", ["Residual", "DictOutputs", "TwoInputs", "Windows", "TiedHead"])
def test_all_forms_of_one_network_pass(name: str, folder: Path) -> None:
    given = subject(name)
    save_program(given.pruned, None, folder / "pruned.pt2")

    report = validate(
        given.pruned,
        exported(name, folder),
        reloaded=load_program(folder / "pruned.pt2"),
        extra=(check_masked(given.graph, given.kept, given.pruned),),
    )

    raise_for(report)
    assert report.ok
    assert report.failed == ()
    names = by_name(report)
    assert names["masked = pruned"].max_rel < 1e-12
    assert {"ONNX checker", "inputs", "dynamic batch", "weights", "reloaded weights"} <= set(names)
    assert any(key.startswith("onnxruntime = torch") for key in names)


def test_numbers_are_reported(folder: Path) -> None:
    check = by_name(validate(subject("Residual").pruned, exported("Residual", folder)))[
        "onnxruntime = torch"
    ]

    assert 0 < check.mean_abs <= check.p99_abs <= check.max_abs < 1e-5
    assert check.cosine == pytest.approx(1)
    assert check.tolerance == 1e-4
    assert "of 6 runs" in check.detail  # three batches, two seeds


def test_one_moved_weight_in_the_file_is_found(folder: Path, tmp_path: Path) -> None:
    model = onnx.load(exported("Residual", folder))
    weight = next(value for value in model.graph.initializer if value.name == "a.0.weight")
    values = numpy_helper.to_array(weight).copy()
    values.flat[0] += 0.01
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, tmp_path / "moved.onnx")

    report = validate(subject("Residual").pruned, tmp_path / "moved.onnx")

    assert [check.name for check in report.failed] == ["onnxruntime = torch"]
    assert report.failed[0].max_rel > 1e-4
    with pytest.raises(ValidationError, match="onnxruntime = torch: output 0"):
        raise_for(report)


def test_the_file_of_another_network_is_found(folder: Path) -> None:
    report = validate(subject("Residual").pruned, exported("Depthwise", folder))

    assert {"weights", "onnxruntime = torch"} <= {check.name for check in report.failed}


def test_the_file_of_the_unpruned_network_is_found(tmp_path: Path) -> None:
    given = subject("Residual")
    export_onnx(cut(given.graph, given.graph.all_kept()), tmp_path / "whole.onnx")

    failed = {check.name for check in validate(given.pruned, tmp_path / "whole.onnx").failed}

    assert failed == {"weights", "onnxruntime = torch"}


def test_a_file_of_other_inputs_is_not_run(folder: Path) -> None:
    report = validate(subject("Residual").pruned, exported("MLP", folder))

    names = by_name(report)
    assert not names["inputs"].ok
    assert "float32 (6,) instead of float32 (3, 8, 8)" in names["inputs"].detail
    assert "onnxruntime = torch" not in names


def test_a_fixed_batch_is_found(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval()
    inputs = (torch.randn(2, 4),)
    pruned = cut(graph := trace(network, inputs), graph.all_kept())
    torch.onnx.export(network, inputs, tmp_path / "fixed.onnx", dynamo=True, verbose=False)

    failed = {check.name for check in validate(pruned, tmp_path / "fixed.onnx").failed}

    assert {"dynamic batch", "onnxruntime = torch"} <= failed


def test_a_masked_network_of_other_units_is_found() -> None:
    given = subject("Residual")
    other = random_kept(given.graph, 0.3, 1)

    assert check_masked(given.graph, given.kept, given.pruned).ok
    assert not check_masked(given.graph, other, given.pruned).ok


def test_a_masked_network_is_not_the_repaired_one() -> None:
    given = subject("Residual")
    repaired = damaged(given.pruned, "stem.1.running_mean", 0.5)

    assert not check_masked(given.graph, given.kept, repaired).ok


def test_a_reloaded_network_with_another_weight_is_found(folder: Path) -> None:
    pruned = subject("Residual").pruned

    report = validate(
        pruned, exported("Residual", folder), reloaded=damaged(pruned, "head.fc.bias", 1e-3)
    )

    failed = {check.name for check in report.failed}
    assert failed == {"reloaded weights", "reloaded = pruned"}


def test_nan_fails(tmp_path: Path) -> None:
    pruned = damaged(subject("Residual").pruned, "head.fc.bias", float("nan"))
    export_onnx(pruned, tmp_path / "nan.onnx")

    report = validate(pruned, tmp_path / "nan.onnx")

    assert "NaN or infinity" in by_name(report)["onnxruntime = torch"].detail
    assert not report.ok


def test_outputs_that_say_nothing_are_mentioned(tmp_path: Path) -> None:
    pruned = subject("Residual").pruned
    with torch.no_grad():
        pruned.get_parameter("head.fc.weight").zero_()
    export_onnx(pruned, tmp_path / "dull.onnx")

    check = by_name(validate(pruned, tmp_path / "dull.onnx"))["outputs vary"]

    assert check.ok
    assert "same for every input" in check.detail


def test_real_data_is_compared(folder: Path) -> None:
    given = subject("Residual")
    x = torch.randn(20, 3, 8, 8)
    labels = given.pruned(x).argmax(1)
    data = as_batches((x, labels), batch_size=8)

    names = by_name(validate(given.pruned, exported("Residual", folder), data=data))

    assert names["onnxruntime = torch on data"].ok
    agreement = names["top-1 agreement on data"]
    assert agreement.ok
    assert "100.00% of 20 images" in agreement.detail
    assert "accuracy 100.00% in torch, 100.00% in onnxruntime" in agreement.detail


def test_predictions_that_turn_are_found(folder: Path) -> None:
    pruned = subject("Residual").pruned
    images = torch.randn(6, 3, 8, 8)
    unlikely = int(pruned(images).sum(0).argmin())
    turned = damaged(pruned, "head.fc.bias", 0)
    with torch.no_grad():
        turned.get_parameter("head.fc.bias")[unlikely] += 100

    report = validate(turned, exported("Residual", folder), data=as_batches((images,)))

    assert not by_name(report)["top-1 agreement on data"].ok


def test_data_of_another_shape_is_an_error(folder: Path) -> None:
    with pytest.raises(DataError, match="3x9x9"):
        validate(
            subject("Residual").pruned,
            exported("Residual", folder),
            data=as_batches((torch.randn(4, 3, 9, 9),)),
        )


def test_tolerances_can_be_tightened(folder: Path) -> None:
    report = validate(
        subject("Residual").pruned,
        exported("Residual", folder),
        settings=Settings(batches=(2,), seeds=(0,), rtol=1e-12),
    )

    assert [check.name for check in report.failed] == ["onnxruntime = torch"]
    assert report.failed[0].tolerance == 1e-12


def test_half_precision_is_compared_at_its_own_tolerance(tmp_path: Path) -> None:
    pruned = subject("Residual").pruned.half()
    export_onnx(pruned, tmp_path / "half.onnx")

    names = by_name(validate(pruned, tmp_path / "half.onnx"))

    assert names["onnxruntime = torch"].ok
    assert names["onnxruntime = torch"].tolerance == 1e-2


def test_a_provider_that_is_not_used_fails(folder: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("CUDA would be used")

    names = by_name(validate(subject("MLP").pruned, exported("MLP", folder), provider="cuda"))

    assert not names["execution provider"].ok
    assert names["execution provider"].detail == "asked for cuda, used cpu"
    assert names["onnxruntime = torch"].ok


def test_cuda_is_silent_where_there_is_none(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    validate(subject("MLP").pruned, exported("MLP", folder), provider="cuda")

    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_an_unknown_provider_is_refused(folder: Path) -> None:
    with pytest.raises(OptionError, match="auto, cpu, cuda"):
        validate(subject("MLP").pruned, exported("MLP", folder), provider="tpu")


def test_ordinary_modules_are_run_on_the_inputs_of_the_file(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    export_onnx(network, tmp_path / "plain.onnx", example_inputs=(torch.randn(2, 4),))

    assert validate(network, tmp_path / "plain.onnx").ok


@pytest.mark.parametrize("keep", [0, 40, 0.5, 0.99])
def test_a_truncated_file_is_an_error(folder: Path, tmp_path: Path, keep: float) -> None:
    whole = exported("Residual", folder).read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(whole[: int(keep if keep > 1 else keep * len(whole))])

    with pytest.raises(ArtifactError, match=r"cut\.onnx"):
        validate(subject("Residual").pruned, path)


@pytest.mark.parametrize("content", [b"hello", b"\x00" * 100, b"{}"])
def test_what_is_no_onnx_file_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "no.onnx"
    path.write_bytes(content)

    with pytest.raises(ArtifactError, match=r"no\.onnx"):
        validate(subject("Residual").pruned, path)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no file"):
        validate(subject("Residual").pruned, tmp_path / "nowhere.onnx")


def test_extra_checks_count(folder: Path) -> None:
    wrong = Check(name="mine", ok=False, detail="no")

    report = validate(subject("MLP").pruned, exported("MLP", folder), extra=(wrong,))

    assert report.failed == (wrong,)


def test_a_report_without_checks_is_not_ok() -> None:
    assert not ValidationReport(checks=()).ok
    with pytest.raises(ValidationError):
        raise_for(ValidationReport(checks=()))


@pytest.mark.slow
def test_resnet18(tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    model = randomize(torchvision.models.resnet18(weights=None)).eval()
    graph = trace(model, (torch.randn(2, 3, 224, 224),))
    kept = random_kept(graph, 0.3, 0)
    pruned = cut(graph, kept)
    save_program(pruned, None, tmp_path / "pruned.pt2")
    export_onnx(pruned, tmp_path / "pruned.onnx")

    report = validate(
        pruned,
        tmp_path / "pruned.onnx",
        reloaded=load_program(tmp_path / "pruned.pt2"),
        extra=(check_masked(graph, kept, pruned),),
    )

    raise_for(report)


def test_a_table_looked_up_by_constants_may_be_computed_beforehand(tmp_path: Path) -> None:
    """Positions of GPT-2 and BERT: the file holds the rows looked up, not the table."""

    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(9, 8), nn.Embedding(20, 8)
            self.up, self.out = nn.Linear(8, 6), nn.Linear(6, 3)

        def forward(self, words: Tensor) -> Tensor:
            places = torch.arange(words.shape[1], device=words.device)
            return self.out(self.up(self.words(words) + self.places(places)[None]).relu())

    graph = trace(Positions().eval(), (torch.randint(0, 9, (2, 5)),))
    pruned = cut(graph, random_kept(graph, 0.4, 0))
    export_onnx(pruned, tmp_path / "model.onnx")
    report = validate(pruned, tmp_path / "model.onnx")
    assert report.ok
    assert by_name(report)["weights"].detail.startswith("3 of 3")


def test_one_session_is_open_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[weakref.ref[Session]] = []

    def watched(path: Path, provider: str, *, optimized: bool = True) -> Session:
        assert not [session for session in opened if session() is not None]
        session = open_session(path, provider, optimized=optimized)
        opened.append(weakref.ref(session))
        return session

    monkeypatch.setattr(validation, "open_session", watched)

    assert validate(subject("MLP").pruned, exported("MLP", folder)).ok
    assert len(opened) == 2
