"""Validation: masked original = pruned network = what was read back = what onnxruntime computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
from torch import fx, nn

from graphprune.data import CalibrationBatches
from graphprune.errors import ArtifactError
from graphprune.game.masking import mask_network
from graphprune.graph import DependencyGraph, Kept
from graphprune.releasing import release, size_of
from graphprune.runtime import Session, open_session
from graphprune.verify.cases import Cases, Settings, cases_for, tensors_of
from graphprune.verify.comparison import SAME
from graphprune.verify.contents import check_dead, check_external, check_opset, read_onnx
from graphprune.verify.declared import check_declared, declared_inputs
from graphprune.verify.forms import (
    Form,
    check_equal,
    check_exactly_equal,
    check_on_data,
    check_sizes,
    check_variety,
    onnx_form,
    remembered,
    runnable,
    torch_form,
)
from graphprune.verify.locating import locate
from graphprune.verify.parting import where_they_part
from graphprune.verify.report import Check, Divergence, ValidationReport
from graphprune.verify.structure import (
    Shape,
    check_batch,
    check_file,
    check_inputs,
    check_planned,
    check_weights,
)
from graphprune.verify.tolerances import Limit, Limits, limits_for
from graphprune.verify.weights import same_weights

THOROUGH = Settings()
"""Batches of 1, 2 and 5, two seeds, tolerances by dtype."""


@dataclass(frozen=True, kw_only=True)
class Background:
    """What is known of a network beside its file; nothing has to be.

    Args:
        example_inputs: Inputs that it runs on, for networks that do not know them.
        graph: The network as traced, or the one that it was cut from.
        planned: Shape of every tensor that a plan cuts.
    """

    example_inputs: tuple[Any, ...] | None = None
    graph: DependencyGraph | None = None
    planned: Mapping[str, Shape] | None = None


Lazy = nn.Module | Callable[[], nn.Module]
"""A network, or what makes it: large ones need not be held before and after their own check."""

NOTHING = Background()
"""Only the network and the file are known."""


def validate(
    pruned: nn.Module,
    path: Path | str,
    *,
    reloaded: Lazy | None = None,
    data: CalibrationBatches | None = None,
    provider: str = "auto",
    settings: Settings = THOROUGH,
    extra: Iterable[Check] = (),
    background: Background = NOTHING,
) -> ValidationReport:
    """Prove that the forms of one network compute the same function.

    Args:
        pruned: The network as it was exported.
        path: Its ONNX file.
        reloaded: What was read back from the ``.pt2`` file.
        data: Real images, on which predictions are compared as well.
        provider: ``auto`` (CUDA where there is a GPU), ``cpu`` or ``cuda``; that onnxruntime used
            another one than asked for is a failed check.
        settings: Batches, seeds and tolerances.
        extra: Checks made elsewhere, such as :func:`check_masked`, which the report shall hold.
        background: What else is known of the network.

    Raises:
        ArtifactError: The ONNX file is missing, damaged or no ONNX file.
        DataError: The data does not fit the network's inputs.
        OptionError: There is no such provider, or no such output to tolerate anything of.
    """
    path = Path(path)
    file = read_onnx(path)
    limits = limits_for(
        pruned,
        [value.name for value in file.graph.output],
        rtol=settings.rtol,
        atol=settings.atol,
        own=settings.tolerances,
    )
    cases = cases_for(pruned, declared_inputs(file), settings, background.example_inputs)
    structure = _structure(path, file, pruned, cases, background)
    form = remembered(torch_form(pruned))
    in_torch = list(extra)
    if reloaded is not None:
        in_torch += _check_reloaded(pruned, form, reloaded, cases)
        release(size_of(pruned))
    runtime = _Runtime(path=path, file=file, provider=provider, limits=limits, size=size_of(pruned))
    fits = all(check.ok for check in structure if check.name == "inputs")
    used, compared = runtime.check(form, cases, data) if fits else (runtime.check_provider(), ())
    divergence = None
    if not _all_ok(compared):
        divergence = runtime.locate(pruned, form, cases, background.graph)
    checks = (*structure, used, *in_torch, *compared)
    return ValidationReport(checks=checks, divergence=divergence)


def check_masked(
    graph: DependencyGraph, kept: Kept, unrepaired: fx.GraphModule, settings: Settings = THOROUGH
) -> Check:
    """Check in float64 that the masked network computes what the cut one computes.

    Args:
        graph: The network as traced; its weights are shared with the masked form of it.
        kept: For every unit whether it is kept.
        unrepaired: The network as it was cut, before any repair.
        settings: Batches and seeds.

    Returns:
        The check; where it fails, its detail names the first node that differs.
    """
    masked = mask_network(graph, kept, shared=True)
    cases = cases_for(unrepaired, (), settings).some()
    check = check_exactly_equal(unrepaired, masked, cases)
    # What fails is certain by now; that it cannot be explained is no other failure.
    with suppress(Exception):
        for case in () if check.ok else cases:
            where = where_they_part(graph, kept, unrepaired, masked, case)
            if where:
                return replace(check, detail=f"{check.detail}; {where}")
    return check


def _check_reloaded(pruned: nn.Module, form: Form, reloaded: Lazy, cases: Cases) -> list[Check]:
    other = _made(reloaded)
    same = Limits(default=Limit(relative=SAME))
    return [
        same_weights(pruned, other, name="reloaded weights"),
        *check_equal("reloaded = pruned", form, torch_form(other), cases.random(), same),
    ]


def _made(form: Lazy) -> nn.Module:
    return form if isinstance(form, nn.Module) else form()


def _structure(
    path: Path, file: onnx.ModelProto, pruned: nn.Module, cases: Cases, background: Background
) -> list[Check]:
    planned = background.planned
    return [
        check_file(path, file),
        check_opset(file),
        check_external(path, file),
        check_dead(file),
        check_inputs(file, cases.leaves),
        check_batch(file, dynamic=cases.signature.fixed_batch is None),
        check_weights(file, _as_graph(pruned, background.graph)),
        *([] if planned is None else [check_planned(file, planned)]),
    ]


def _as_graph(network: nn.Module, graph: DependencyGraph | None) -> nn.Module:
    """Return a network in the form that says which of its weights are read."""
    if graph is None or isinstance(network, fx.GraphModule):
        return network
    return graph.program.module


def _check_provider(session: Session) -> Check:
    used = "cuda" if session.uses_cuda else "cpu"
    return Check(
        name="execution provider",
        ok=session.asked in ("auto", used),
        detail=f"asked for {session.asked}, used {used}",
    )


@dataclass(frozen=True, kw_only=True)
class _Runtime:
    """A file in onnxruntime, to be compared with a network.

    Every session holds the weights once more, so one is closed before the next is opened.
    """

    path: Path
    file: onnx.ModelProto
    provider: str
    limits: Limits
    size: int

    def check_provider(self) -> Check:
        """Check which provider runs the file."""
        return _check_provider(open_session(self.path, self.provider))

    def check(
        self, reference: Form, cases: Cases, data: CalibrationBatches | None
    ) -> tuple[Check, Sequence[Check]]:
        """Check the provider, and what the file computes."""
        used, same, checks, on_data = self._check_optimized(reference, cases, data)
        release(self.size)
        plain = self._check_unoptimized(reference, cases) if _all_ok(same) else ()
        return used, (*same, *checks, *plain, *on_data)

    def _check_optimized(
        self, reference: Form, cases: Cases, data: CalibrationBatches | None
    ) -> tuple[Check, Sequence[Check], Sequence[Check], Sequence[Check]]:
        session = open_session(self.path, self.provider)
        drawn, other = cases.random(), remembered(onnx_form(session))
        same = check_equal("onnxruntime = torch", reference, other, drawn, self.limits)
        checks = [
            *check_sizes(reference, other, cases.other_sizes(), self.limits),
            check_variety(reference, drawn),
        ]
        if _all_ok(same):
            ran = runnable(reference, drawn)
            runs = [(tensors_of(case.inputs), other(case)) for case in ran]
            checks.append(check_declared(self.file, runs))
        on_data: Sequence[Check] = ()
        if data is not None:
            on_data = check_on_data(reference, other, cases.real(data), self.limits)
        return _check_provider(session), same, checks, on_data

    def locate(
        self, network: nn.Module, reference: Form, cases: Cases, graph: DependencyGraph | None
    ) -> Divergence | None:
        """Find where the two part."""
        sizes = [case for some in cases.other_sizes().values() for case in some]
        forms = reference, onnx_form(open_session(self.path, self.provider))
        drawn = [*cases.random(), *runnable(reference, sizes)]
        return locate(network, self.path, forms, drawn, self.limits, graph)

    def _check_unoptimized(self, reference: Form, cases: Cases) -> Sequence[Check]:
        """Compare without onnxruntime's own rewriting, which could hide a fault or make one."""
        name = "without optimization"
        try:
            plain = open_session(self.path, self.provider, optimized=False)
        except ArtifactError:  # kernels of some dtypes exist for rewritten graphs only
            return [Check(name=name, ok=True, detail="onnxruntime cannot run it without")]
        return check_equal(name, reference, onnx_form(plain), cases.some(), self.limits)


def _all_ok(checks: Sequence[Check]) -> bool:
    return all(check.ok for check in checks)
