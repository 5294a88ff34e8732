"""Validation: masked original = pruned network = what was read back = what onnxruntime computes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx
from torch import nn

from graphprune.data import CalibrationBatches
from graphprune.runtime import Session, open_session
from graphprune.verify.cases import Cases, Settings, cases_for
from graphprune.verify.comparison import SAME, Limit, limit_for
from graphprune.verify.forms import (
    Form,
    check_equal,
    check_exactly_equal,
    check_on_data,
    check_variety,
    onnx_form,
    remembered,
    torch_form,
)
from graphprune.verify.report import Check, ValidationReport
from graphprune.verify.structure import (
    check_batch,
    check_file,
    check_inputs,
    check_weights,
    read_onnx,
)
from graphprune.verify.weights import same_weights

THOROUGH = Settings()
"""Batches of 1, 2 and 5, two seeds, tolerances by dtype."""


def validate(  # noqa: PLR0913 - one for each form
    pruned: nn.Module,
    path: Path | str,
    *,
    cut: nn.Module | None = None,
    masked: nn.Module | None = None,
    reloaded: nn.Module | None = None,
    data: CalibrationBatches | None = None,
    provider: str = "auto",
    settings: Settings = THOROUGH,
    extra: Iterable[Check] = (),
) -> ValidationReport:
    """Prove that the forms of one network compute the same function.

    Args:
        pruned: The network as it was exported.
        path: Its ONNX file.
        cut: The network as it was before a repair, if there was one; ``masked`` equals that.
        masked: The full-size network with the removed units masked.
        reloaded: What was read back from the ``.pt2`` file.
        data: Real images, on which predictions are compared as well.
        provider: ``auto`` (CUDA where there is a GPU), ``cpu`` or ``cuda``; that onnxruntime used
            another one than asked for is a failed check.
        settings: Batches, seeds and tolerances.
        extra: Checks made elsewhere, which the report shall hold.

    Raises:
        ArtifactError: The ONNX file is missing, damaged or no ONNX file.
        DataError: The data does not fit the network's inputs.
        OptionError: There is no such provider.
    """
    file = read_onnx(Path(path))
    session = open_session(Path(path), provider)
    cases = cases_for(pruned, file, settings)
    checks = [check_file(Path(path)), *_structure(file, pruned, cases), _check_provider(session)]
    form = remembered(torch_form(pruned))
    if masked is not None:
        checks.append(check_exactly_equal(pruned if cut is None else cut, masked, cases.some()))
    if reloaded is not None:
        checks.append(same_weights(pruned, reloaded, name="reloaded weights"))
        same, other = Limit(relative=SAME), torch_form(reloaded)
        checks += check_equal("reloaded = pruned", form, other, cases.random(), same)
    if all(check.ok for check in checks if check.name == "inputs"):
        limit = _limit(pruned, settings)
        checks += _check_runtime(form, onnx_form(session), cases, data, limit)
    return ValidationReport(checks=(*checks, *extra))


def _structure(file: onnx.ModelProto, pruned: nn.Module, cases: Cases) -> list[Check]:
    return [
        check_inputs(file, cases.leaves),
        check_batch(file, dynamic=cases.signature.fixed_batch is None),
        check_weights(file, pruned),
    ]


def _check_provider(session: Session) -> Check:
    used = "cuda" if session.uses_cuda else "cpu"
    return Check(
        name="execution provider",
        ok=session.asked in ("auto", used),
        detail=f"asked for {session.asked}, used {used}",
    )


def _check_runtime(
    reference: Form, other: Form, cases: Cases, data: CalibrationBatches | None, limit: Limit
) -> list[Check]:
    drawn = cases.random()
    checks = [
        *check_equal("onnxruntime = torch", reference, other, drawn, limit),
        check_variety(reference, drawn),
    ]
    if data is not None:
        checks += check_on_data(reference, other, cases.real(data), limit)
    return checks


def _limit(pruned: nn.Module, settings: Settings) -> Limit:
    if settings.rtol is None:
        return limit_for(pruned)
    return Limit(relative=settings.rtol, absolute=settings.atol)
