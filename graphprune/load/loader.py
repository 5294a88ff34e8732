"""From a `ModelSource` to a `LoadedModel`: read or build, fill with weights, check, run once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from graphprune.errors import ModelError
from graphprune.factories import call_factory
from graphprune.load.checks import require_usable
from graphprune.load.containers import existing_file
from graphprune.load.exported import read_exported
from graphprune.load.hashing import model_hash
from graphprune.load.inputs import example_inputs_for
from graphprune.load.pickled import read_module
from graphprune.load.source import Draft, LoadedModel, ModelSource, SpecKind
from graphprune.load.weights import apply_weights
from graphprune.load.zoo import build_timm, build_torchvision

_FORMS = (
    "a .pt or .pth file, a .pt2 file, torchvision:NAME, timm:NAME, package.module:factory or "
    "path/file.py:factory"
)
_RANDOM = "no --weights given: the weights are random (seed 0)"


def load_model(
    source: ModelSource, *, trust: bool = False, data_shape: tuple[int, ...] | None = None
) -> LoadedModel:
    """Load a model, put it in eval mode on the CPU and find inputs that it runs on.

    A model that is built with random weights gets the same ones every time.

    Args:
        source: What to load.
        trust: Read files that contain more than tensors and known layers, running what they say.
        data_shape: Shape of one calibration image without the batch; used as the input shape when
            the source gives none.

    Raises:
        TrustError: A file would run code when read, and ``trust`` is false.
        ModelError: The model cannot be read, built or run.
    """
    with _seeded():
        draft = _draft(source, trust=trust)
    module = draft.module
    if source.weights is not None:
        apply_weights(module, source.weights, trust=trust)
    require_usable(module, source.spec)
    module.cpu()
    if not draft.is_exported:
        # Modules made from exported programs are in eval mode and refuse to be told so.
        module.eval()
    inputs, notes = example_inputs_for(draft, given=source.input_shapes, data_shape=data_shape)
    shapes = tuple(tuple(value.shape[1:]) for value in inputs)
    return LoadedModel(
        module=module,
        example_inputs=inputs,
        source=replace(source, input_shapes=shapes),
        sha256=model_hash(module),
        notes=(*draft.notes, *notes),
    )


@contextmanager
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _draft(source: ModelSource, *, trust: bool) -> Draft:
    name = source.spec.partition(":")[2]
    random = () if source.weights is not None else (_RANDOM,)
    match source.kind:
        case SpecKind.TORCHVISION:
            return Draft(module=build_torchvision(name), notes=random)
        case SpecKind.TIMM:
            return Draft(module=build_timm(name), notes=random)
        case SpecKind.FACTORY:
            return Draft(module=_from_factory(source.spec))
        case SpecKind.PICKLED:
            return Draft(module=read_module(source.spec, trust=trust))
        case SpecKind.EXPORTED:
            return _noted(read_exported(source.spec, trust=trust))
    raise _unknown_form(source.spec)


def _noted(draft: Draft) -> Draft:
    if draft.fixed_batch is None:
        return draft
    note = f"the exported program takes batches of {draft.fixed_batch} only"
    return replace(draft, notes=(*draft.notes, note))


def _from_factory(spec: str) -> nn.Module:
    module = call_factory(spec, error=ModelError, ready=lambda found: isinstance(found, nn.Module))
    if isinstance(module, nn.Module):
        return module
    raise ModelError(
        f"{spec} gave a {type(module).__name__}, not a torch.nn.Module",
        hint="return the network itself",
    )


def _unknown_form(spec: str) -> ModelError:
    if spec.endswith(".py"):
        hint = f"name the function in it that builds the model: {spec}:FACTORY"
        return ModelError(f"{spec} is a Python file, and which model in it is unknown", hint=hint)
    if spec.lower().endswith(".safetensors"):
        hint = f"give the architecture as MODEL, e.g. torchvision:resnet18 --weights {spec}"
        return ModelError(f"{spec} holds weights only", hint=hint)
    if spec.isidentifier() and not Path(spec).exists():
        hint = f"did you mean torchvision:{spec} or timm:{spec}?"
        return ModelError(f"{spec!r} is none of the forms of MODEL: {_FORMS}", hint=hint)
    if spec and ("/" in spec or Path(spec).suffix or Path(spec).exists()):
        existing_file(spec, what="model file")
    return ModelError(
        f"{spec!r} is none of the forms of MODEL: {_FORMS}", hint="see graphprune --help"
    )
