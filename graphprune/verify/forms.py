"""Forms of one network, run on the same inputs and compared output by output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from graphprune.errors import ModelError
from graphprune.game.value import class_logits
from graphprune.runtime import Session
from graphprune.verify.cases import Case, tensors_of
from graphprune.verify.comparison import EXACT, Limit, Pair, compare
from graphprune.verify.precision import as_double, doubled_inputs
from graphprune.verify.report import Check

Form = Callable[[Case], Sequence[Tensor]]
"""A form of a network: inputs -> flat outputs."""


def torch_form(module: nn.Module) -> Form:
    """Return a module as a form."""

    def run(case: Case) -> Sequence[Tensor]:
        with torch.no_grad():
            return tensors_of(module(*case.inputs))

    return run


def onnx_form(session: Session) -> Form:
    """Return an ONNX file as a form."""
    return lambda case: session.run(tensors_of(case.inputs))


def remembered(form: Form) -> Form:
    """Return a form that computes every case once; cases of one name must be equal."""
    known: dict[str, Sequence[Tensor]] = {}

    def run(case: Case) -> Sequence[Tensor]:
        if case.name not in known:
            known[case.name] = form(case)
        return known[case.name]

    return run


def check_equal(
    name: str, reference: Form, other: Form, cases: Sequence[Case], limit: Limit
) -> list[Check]:
    """Check that a form computes what the reference computes: one check for each output.

    Args:
        name: Of the check.
        reference: The form that is right by definition.
        other: The form under test.
        cases: The inputs.
        limit: What passes.
    """
    pairs = _run_both(name, reference, other, cases)
    if isinstance(pairs, Check):
        return [pairs]
    by_output: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_output.setdefault(pair.name, []).append(pair)
    alone = len(by_output) == 1
    return [
        compare(name if alone else f"{name}: {output}", found, limit)
        for output, found in by_output.items()
    ]


def check_exactly_equal(cut: nn.Module, masked: nn.Module, cases: Sequence[Case]) -> Check:
    """Check in float64 that a cut network computes what the masked one computes."""
    name, ours, theirs = "masked = pruned", as_double(cut), as_double(masked)
    doubled = [Case(name=case.name, inputs=doubled_inputs(case.inputs)) for case in cases]
    pairs = _run_both(name, torch_form(ours), torch_form(theirs), doubled)
    if isinstance(pairs, Check):
        return pairs
    return compare(name, pairs, Limit(relative=EXACT, absolute=EXACT))


def check_variety(reference: Form, cases: Sequence[Case]) -> Check:
    """Say whether outputs depend on the inputs; where they do not, that forms agree proves little.

    This never fails: a network may well have learnt a constant.
    """
    dull = []
    for place, output in enumerate(reference(max(cases, key=lambda case: case.batch))):
        if output.numel() and bool((output == 0).all()):
            dull.append(f"output {place} is zero everywhere")
        elif output.dim() and len(output) > 1 and bool((output == output[:1]).all()):
            dull.append(f"output {place} is the same for every input")
    return Check(name="outputs vary", ok=True, detail=", ".join(dull) or "they depend on the input")


def check_on_data(reference: Form, other: Form, cases: Sequence[Case], limit: Limit) -> list[Check]:
    """Compare outputs and predictions on real images."""
    name = "onnxruntime = torch on data"
    pairs = _run_both(name, reference, other, cases)
    if isinstance(pairs, Check):
        return [pairs]
    if not pairs:
        return []
    checks = [compare(name, pairs, limit)]
    try:
        ours = torch.cat([_top(p.reference for p in pairs if p.case == c.name) for c in cases])
        theirs = torch.cat([_top(p.other for p in pairs if p.case == c.name) for c in cases])
    except ModelError:  # no classes, so there are no predictions to compare
        return checks
    labels = [case.labels for case in cases if case.labels is not None]
    # Near-ties turn with rounding, so a few predictions more than the tolerance may differ.
    needed = 1 - 10 * min(limit.relative, 5e-3)
    return [*checks, _agreement(ours, theirs, torch.cat(labels) if labels else None, needed)]


def _run_both(name: str, reference: Form, other: Form, cases: Sequence[Case]) -> list[Pair] | Check:
    """Run two forms on the same inputs; a failed check if the second cannot, or returns less.

    Cases that the reference itself refuses (a batch of 1, say) are left out.
    """
    pairs: list[Pair] = []
    refusal = ""
    for case in cases:
        try:
            expected = reference(case)
        except Exception as error:  # whatever a forward may raise
            refusal = refusal or f"{case.name}: the network does not run: {_text(error)}"
            continue
        try:
            found = other(case)
        except Exception as error:  # whatever a runtime raises is an answer
            return _failed(name, f"{case.name}: it does not run: {_text(error)}")
        if len(found) != len(expected):
            counts = f"{len(found)} outputs instead of {len(expected)}"
            return _failed(name, f"{case.name}: {counts}")
        pairs += _paired(case, expected, found)
    return pairs if pairs or not refusal else _failed(name, refusal)


def _paired(case: Case, expected: Sequence[Tensor], found: Sequence[Tensor]) -> list[Pair]:
    return [
        Pair(name=f"output {place}", case=case.name, reference=a, other=b)
        for place, (a, b) in enumerate(zip(expected, found, strict=True))
    ]


def _failed(name: str, detail: str) -> Check:
    return Check(name=name, ok=False, detail=detail)


def _text(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _top(outputs: Iterable[Tensor]) -> Tensor:
    return class_logits(list(outputs)).argmax(-1).cpu()


def _agreement(ours: Tensor, theirs: Tensor, labels: Tensor | None, needed: float) -> Check:
    """Compare predictions (images, positions)."""
    share = float((ours == theirs).double().mean())
    detail = f"{share:.2%} of {len(ours)} images"
    if labels is not None and ours.shape[1] == 1:
        truth = labels.cpu()
        right = [float((guess[:, 0] == truth).double().mean()) for guess in (ours, theirs)]
        detail += f"; accuracy {right[0]:.2%} in torch, {right[1]:.2%} in onnxruntime"
    return Check(name="top-1 agreement on data", ok=share >= needed, detail=detail)
