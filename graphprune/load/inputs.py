"""Example inputs: the shapes a model takes, given, read off the model or found by trying."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from graphprune.errors import ModelError
from graphprune.load.source import Draft

_SEED = 0
_BATCH = 2
_SIDES = (224, 299, 32, 64, 28)
_SIDES_OF_GREY = (28, 32, 64, 224)
_LENGTHS = (64, 128, 256, 1024)
_SHAPE_HINT = "give it with --input-shape, without the batch, e.g. --input-shape 3,224,224"
Shapes = tuple[tuple[int, ...], ...]


def example_inputs_for(
    draft: Draft, *, given: Shapes, data_shape: tuple[int, ...] | None
) -> tuple[tuple[torch.Tensor, ...], tuple[str, ...]]:
    """Find inputs that the model runs on.

    In this order: the shapes given, the shape of the calibration data, what the model or its file
    says, and last a few usual shapes, of which the first that runs is taken.

    Args:
        draft: The model.
        given: Shapes from the user, without the batch.
        data_shape: Shape of one calibration image, if known.

    Returns:
        The inputs, and notes on what was inferred.

    Raises:
        ModelError: The model does not run on them, or none can be found.
    """
    if given:
        return _run_or_raise(draft, given, "--input-shape"), ()
    names = _required_inputs(draft)
    if data_shape is not None and len(names) == 1:
        return _run_or_raise(draft, (data_shape,), "the data's shape"), ()
    if draft.stored_inputs:
        stored = tuple(tuple(value.shape[1:]) for value in draft.stored_inputs)
        return _run_or_raise(draft, stored, "the file's own input shape"), ()
    if len(names) != 1:
        raise ModelError(
            f"the model takes {len(names)} inputs ({', '.join(names)}) of unknown shapes",
            hint="give --input-shape once for each, in this order",
        )
    return _inferred(draft)


def _inferred(draft: Draft) -> tuple[tuple[torch.Tensor, ...], tuple[str, ...]]:
    declared = _declared_shape(draft.module)
    candidates = [declared] if declared is not None else list(_candidates(draft.module))
    for shape in candidates:
        inputs = _draw(draft, (shape,))
        if _failure(draft.module, inputs) is None:
            text = ",".join(map(str, shape))
            return inputs, (f"input shape {text} inferred; pass --input-shape to change it",)
    tried = " ".join(",".join(map(str, shape)) for shape in candidates)
    raise ModelError(
        "the model's input shape is unknown" + (f"; tried {tried}" if tried else ""),
        hint=_SHAPE_HINT,
    )


def _run_or_raise(draft: Draft, shapes: Shapes, origin: str) -> tuple[torch.Tensor, ...]:
    inputs = _draw(draft, shapes)
    failure = _failure(draft.module, inputs)
    if failure is None:
        return inputs
    text = " and ".join(",".join(map(str, shape)) for shape in shapes)
    raise ModelError(
        f"the model does not run on {origin} {text}: {failure}",
        hint="give the shape that it was made for with --input-shape, without the batch",
    )


def _draw(draft: Draft, shapes: Shapes) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(_SEED)
    batch = _BATCH if draft.fixed_batch is None else draft.fixed_batch
    dtype = _floating_dtype(draft.module)
    inputs = []
    for index, shape in enumerate(shapes):
        stored = draft.stored_inputs[index] if index < len(draft.stored_inputs) else None
        if stored is not None and not stored.is_floating_point():
            # Token ids cannot be drawn: only the file knows which values are valid.
            inputs.append(stored[torch.arange(batch) % stored.shape[0]])
            continue
        drawn = torch.randn(batch, *shape, generator=generator)
        inputs.append(drawn.to(dtype if stored is None else stored.dtype))
    return tuple(inputs)


def _floating_dtype(module: nn.Module) -> torch.dtype:
    floating = (value.dtype for value in module.parameters() if value.is_floating_point())
    return next(floating, torch.float32)


def _failure(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> str | None:
    try:
        with torch.inference_mode():
            module(*inputs)
    except Exception as reason:
        lines = str(reason).strip().splitlines()
        return lines[0] if lines else type(reason).__name__
    return None


def _required_inputs(draft: Draft) -> tuple[str, ...]:
    if draft.stored_inputs:
        return tuple(f"input {index}" for index in range(len(draft.stored_inputs)))
    parameters = inspect.signature(draft.module.forward).parameters.values()
    positional = [
        value
        for value in parameters
        if value.kind in (value.POSITIONAL_ONLY, value.POSITIONAL_OR_KEYWORD)
    ]
    required = [value.name for value in positional if value.default is value.empty]
    # forward(*inputs) or forward(x=None): one input is the best guess.
    return tuple(required) or ("x",)


def _declared_shape(module: nn.Module) -> tuple[int, ...] | None:
    # timm models carry their configuration, torchvision's VisionTransformer its image size.
    attributes = vars(module)
    config = attributes.get("pretrained_cfg") or attributes.get("default_cfg")
    if isinstance(config, Mapping) and isinstance(config.get("input_size"), tuple | list):
        return tuple(int(size) for size in config["input_size"])
    size = attributes.get("image_size")
    if isinstance(size, int) and type(module).__module__.startswith("torchvision."):
        return (3, size, size)
    return None


def _candidates(module: nn.Module) -> Iterator[tuple[int, ...]]:
    first = next((layer for layer in module.modules() if _takes_input(layer)), None)
    match first:
        case nn.Conv2d(in_channels=channels):
            sides = _SIDES_OF_GREY if channels == 1 else _SIDES
            yield from ((channels, side, side) for side in sides)
        case nn.Conv1d(in_channels=channels):
            yield from ((channels, length) for length in _LENGTHS)
        case nn.Linear(in_features=features):
            yield (features,)
        case nn.Embedding():
            raise ModelError(
                f"{type(module).__name__} takes token ids, and which ones are valid is unknown",
                hint="export it with example inputs to a .pt2 file and give that",
            )


def _takes_input(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d | nn.Conv1d | nn.Linear | nn.Embedding)
