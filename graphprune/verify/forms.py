"""Forms of one network, run on the same inputs and compared output by output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from graphprune.errors import ModelError
from graphprune.game.value import class_logits
from graphprune.runtime import Session
from graphprune.verify.cases import Case, tensors_of
from graphprune.verify.comparison import EXACT, Pair, compare
from graphprune.verify.precision import as_double, doubled_inputs
from graphprune.verify.report import Check
from graphprune.verify.tolerances import Limit, Limits

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
    name: str, reference: Form, other: Form, cases: Sequence[Case], limits: Limits
) -> list[Check]:
    """Check that a form computes what the reference computes: one check for each output.

    Args:
        name: Of the check.
        reference: The form that is right by definition.
        other: The form under test.
        cases: The inputs.
        limits: What passes, by output.
    """
    pairs = _run_both(name, reference, other, cases, limits)
    return [pairs] if isinstance(pairs, Check) else _by_output(name, pairs, limits)


def runnable(form: Form, cases: Sequence[Case]) -> list[Case]:
    """Return the cases that a form does not refuse."""
    return [case for case in cases if _runs(form, case)]


def check_sizes(
    reference: Form, other: Form, by_dim: Mapping[str, Sequence[Case]], limits: Limits
) -> list[Check]:
    """Check that open dims of the file take other sizes, as far as the network itself takes them.

    Args:
        reference: The network.
        other: The file.
        by_dim: For every open dim inputs of other sizes.
        limits: What passes, by output.
    """
    checks = []
    for dim, cases in by_dim.items():
        taken = runnable(reference, cases)
        if taken:
            checks += check_equal(f"any {dim}", reference, other, taken, limits)
        else:
            detail = "open in the file; the network itself takes no other size that was tried"
            checks.append(Check(name=f"any {dim}", ok=True, detail=detail))
    return checks


def first_failing(
    reference: Form, other: Form, cases: Sequence[Case], limits: Limits
) -> Case | None:
    """Return the smallest case on which two forms differ, None if they agree on all."""
    for case in sorted(cases, key=lambda case: case.batch):
        if not all(check.ok for check in check_equal("", reference, other, [case], limits)):
            return case
    return None


def _by_output(name: str, pairs: Sequence[Pair], limits: Limits) -> list[Check]:
    by_output: dict[int, list[Pair]] = {}
    for pair in pairs:
        by_output.setdefault(pair.place, []).append(pair)
    alone = len(by_output) == 1
    return [
        compare(name if alone else f"{name}: {limits.name(place)}", found, limits.of(place))
        for place, found in by_output.items()
    ]


def check_exactly_equal(cut: nn.Module, masked: nn.Module, cases: Sequence[Case]) -> Check:
    """Check in float64 that a cut network computes what the masked one computes."""
    name, ours, theirs = "masked = pruned", as_double(cut), as_double(masked)
    doubled = [Case(name=case.name, inputs=doubled_inputs(case.inputs)) for case in cases]
    limit = Limit(relative=EXACT, absolute=EXACT)
    pairs = _run_both(name, torch_form(ours), torch_form(theirs), doubled, Limits(default=limit))
    return pairs if isinstance(pairs, Check) else compare(name, pairs, limit)


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


def check_on_data(
    reference: Form, other: Form, cases: Sequence[Case], limits: Limits
) -> list[Check]:
    """Compare outputs and predictions on real images."""
    name = "onnxruntime = torch on data"
    pairs = _run_both(name, reference, other, cases, limits)
    if isinstance(pairs, Check):
        return [pairs]
    if not pairs:
        return []
    checks = _by_output(name, pairs, limits)
    try:
        ours = torch.cat([_top(p.reference for p in pairs if p.case == c.name) for c in cases])
        theirs = torch.cat([_top(p.other for p in pairs if p.case == c.name) for c in cases])
    except ModelError:  # no classes, so there are no predictions to compare
        return checks
    labels = [case.labels for case in cases if case.labels is not None]
    # Near-ties turn with rounding, so a few predictions more than the tolerance may differ.
    needed = 1 - 10 * min(limits.of(0).relative, 5e-3)
    return [*checks, _agreement(ours, theirs, torch.cat(labels) if labels else None, needed)]


def _run_both(
    name: str, reference: Form, other: Form, cases: Sequence[Case], limits: Limits
) -> list[Pair] | Check:
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
        pairs += _paired(case, expected, found, limits)
    return pairs if pairs or not refusal else _failed(name, refusal)


def _runs(form: Form, case: Case) -> bool:
    try:
        form(case)
    except Exception:  # whatever a forward may raise
        return False
    return True


def _paired(
    case: Case, expected: Sequence[Tensor], found: Sequence[Tensor], limits: Limits
) -> list[Pair]:
    return [
        Pair(name=limits.name(place), place=place, case=case.name, reference=a, other=b)
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
