"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from graphprune.data import DataSource
    from graphprune.load import ModelSource

_MODEL = (
    "A pickled module (.pt, .pth), an exported program (.pt2), torchvision:NAME, timm:NAME, "
    "package.module:factory or path/file.py:factory."
)
_DATA = (
    "Calibration data: .npz with x (and y), .npy, .safetensors, a folder of images, or a factory."
)

Model = Annotated[str, typer.Argument(help=_MODEL, show_default=False)]
OptionalModel = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]",
        help=f"{_MODEL} Without it, model, data and ranking come from --out.",
        show_default=False,
    ),
]
Data = Annotated[str | None, typer.Option("--data", metavar="DATA", help=_DATA)]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the run's files.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
InputShape = Annotated[
    list[str] | None,
    typer.Option(
        "--input-shape",
        metavar="3,224,224",
        help="Shape of an input without the batch; repeat it for several inputs.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads", metavar="N", min=1, help="onnxruntime's threads; by default one per core."
    ),
]
Batch = Annotated[
    int | None, typer.Option("--batch", metavar="N", min=1, help="Samples that are timed at once.")
]
Provider = Annotated[
    str, typer.Option("--provider", help="onnxruntime's execution provider: auto, cpu or cuda.")
]
Weights = Annotated[
    str | None,
    typer.Option("--weights", metavar="FILE", help="State dict or safetensors for the model."),
]
Mean = Annotated[
    str | None,
    typer.Option("--mean", metavar="R,G,B", help="Subtracted from images, per channel."),
]
Std = Annotated[
    str | None, typer.Option("--std", metavar="R,G,B", help="Divides images, per channel.")
]
Resize = Annotated[
    str | None,
    typer.Option("--resize", metavar="N|H,W", help="Resize images to this height and width."),
]
Limit = Annotated[
    int | None, typer.Option("--limit", metavar="N", min=1, help="Use the first N images.")
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
Trust = Annotated[
    bool,
    typer.Option("--trust", help="Let files run the code they hold. Only for files you trust."),
]
Plots = Annotated[str, typer.Option("--plots", help="Draw DIR/plots: svg, png or none.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen; write nothing.")]

# ---- ranking ------------------------------------------------------------------------------------

Criterion = Annotated[
    str,
    typer.Option(
        "--criterion",
        metavar="NAME",
        help="What ranks units: shapley, "
        "shapley-paper, obs, leave-one-out, taylor, taylor-signed, fisher, sensitivity, apoz, "
        "group-magnitude, bn-scale, l1, l2, random or torch-pruning:NAME; or your own function, "
        "path/file.py:function.",
    ),
]
Game = Annotated[
    str | None,
    typer.Option("--game", help="network, group or hierarchical: who plays against whom."),
]
Estimator = Annotated[
    str,
    typer.Option(
        "--estimator",
        metavar="NAME",
        help="auto, gradients, gaussian-process, gaussian-process-gradients, owen, permutation, "
        "antithetic, orthogonal, stratified, kernelshap, leverageshap or exact.",
    ),
]
Value = Annotated[
    str | None,
    typer.Option(
        "--value",
        metavar="NAME",
        help="kl (no labels), cross-entropy or accuracy; or your own function, "
        "path/file.py:function.",
    ),
]
Aggregate = Annotated[
    str | None,
    typer.Option("--aggregate", help="magnitude, mean or mean+2std of values per image."),
]
Budget = Annotated[
    int | None,
    typer.Option(
        "--budget",
        metavar="N",
        min=1,
        help="Coalitions per unit (network game: per image).",
    ),
]
Semivalue = Annotated[
    str,
    typer.Option(
        "--semivalue",
        metavar="NAME",
        help="Which coalitions count: shapley, banzhaf, leave-one-out or upper-shapley[:START].",
    ),
]
Seconds = Annotated[
    float | None,
    typer.Option("--seconds", metavar="S", help="Time that games may take."),
]
UntilStable = Annotated[
    float | None,
    typer.Option(
        "--until-stable",
        metavar="R",
        help="Play until another run would rank units like this: a rank correlation, e.g. 0.95.",
    ),
]
ForRatio = Annotated[
    float | None,
    typer.Option(
        "--for-ratio",
        metavar="R",
        help="Largest share of MACs that you will remove; 0.5 serves 0.1 to 0.5.",
    ),
]
ForRepair = Annotated[
    str,
    typer.Option(
        "--for-repair",
        help="Repair that scores look ahead to: auto (prune decides), none or least-squares.",
    ),
]
MaxMemory = Annotated[
    str,
    typer.Option("--max-memory", metavar="SIZE", help="What activations may take, e.g. 500MB."),
]
Precision = Annotated[
    str,
    typer.Option("--precision", help="float32, or bfloat16: faster on GPUs; its error is told."),
]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="PATTERN", help="Prune only these groups or modules."),
]
Skip = Annotated[
    list[str] | None,
    typer.Option("--skip", metavar="PATTERN", help="Leave these groups or modules alone."),
]

UnpinOutput = Annotated[
    bool,
    typer.Option("--unpin-output", help="Let outputs shrink, too: fewer classes or features."),
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Take up an interrupted ranking of the same model and data."),
]


def model_source(spec: str, weights: str | None, input_shape: list[str] | None) -> ModelSource:
    """Return what MODEL, ``--weights`` and ``--input-shape`` say."""
    from graphprune.load import ModelSource

    return ModelSource(spec=spec, weights=weights, input_shapes=input_shapes(input_shape))


def input_shapes(given: list[str] | None) -> tuple[tuple[int, ...], ...]:
    """Return the shapes that ``--input-shape`` says."""
    return tuple(sizes(text, "--input-shape", "3,224,224") for text in given or ())


def unpinned(wanted: bool) -> tuple[str, ...]:
    """Return the patterns of outputs that ``--unpin-output`` stands for."""
    return ("*",) if wanted else ()


def data_source(
    spec: str | None, mean: str | None, std: str | None, resize: str | None, limit: int | None
) -> DataSource | None:
    """Return what ``--data`` and the options about images say."""
    if spec is None:
        given = {"--mean": mean, "--std": std, "--resize": resize, "--limit": limit}
        stray = [name for name, value in given.items() if value is not None]
        if stray:
            raise typer.BadParameter(f"{', '.join(stray)} without --data")
        return None
    from graphprune.data import DataSource

    size = None if resize is None else sizes(resize, "--resize", "224 or 224,224")
    if size is not None and len(size) > 2:
        raise typer.BadParameter(f"--resize {resize} has more than two numbers")
    return DataSource(
        spec=spec,
        mean=_floats(mean, "--mean"),
        std=_floats(std, "--std"),
        resize=None if size is None else size[0] if len(size) == 1 else (size[0], size[1]),
        limit=limit,
    )


def memory(text: str) -> int:
    """Return the bytes that ``--max-memory`` stands for."""
    number = text.strip().upper().removesuffix("B")
    factor = {"K": 10**3, "M": 10**6, "G": 10**9}.get(number[-1:], 1)
    try:
        found = int(float(number.rstrip("KMG")) * factor)
    except (ValueError, OverflowError):
        found = 0
    if found < 1:
        raise typer.BadParameter(f"--max-memory {text!r} is not a size, e.g. 500MB or 2GB")
    return found


def sizes(text: str, option: str, example: str) -> tuple[int, ...]:
    """Return the positive whole numbers that stand between commas."""
    try:
        numbers = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise typer.BadParameter(
            f"{option} {text!r} is not a list of positive whole numbers, e.g. {example}"
        )
    return numbers


def _floats(
    text: str | None, option: str, example: str = "0.485,0.456,0.406"
) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"{option} {text!r} is not a list of numbers, e.g. {example}"
        ) from None


def names(text: str) -> tuple[str, ...]:
    """Return the names that stand between commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def fractions(text: str, option: str) -> tuple[float, ...]:
    """Return the numbers that stand between commas."""
    return _floats(text, option, "0.1,0.3,0.5") or ()


def seeds(text: str) -> int | tuple[int, ...]:
    """Return how many seeds there are, or a list of them if there is a comma."""
    try:
        listed = tuple(int(part) for part in names(text))
    except ValueError:
        listed = ()
    if not listed or min(listed) < 0 or ("," not in text and listed[0] < 1):
        raise typer.BadParameter(
            f"--seeds {text!r} is neither a number nor a list, e.g. 3 or 0,1,2"
        )
    return listed if "," in text else listed[0]
