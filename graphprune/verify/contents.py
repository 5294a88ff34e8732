"""What an ONNX file holds: its graph, its weights beside it, its opsets, what nothing reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import onnx
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_tensor

from graphprune.errors import ArtifactError
from graphprune.onnx_bytes import read_outline
from graphprune.runtime import require_onnx_file
from graphprune.verify.report import Check

_LISTED = 3
"""How many names a check lists."""

_DEFAULT_DOMAINS = ("", "ai.onnx")


def read_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX file but for the numbers of large weights, see :func:`read_outline`.

    Raises:
        ArtifactError: It is missing, damaged or no ONNX file, or weights beside it are missing.
    """
    require_onnx_file(path)
    try:
        model = read_outline(path)
    except Exception as error:  # protobuf and onnx raise unrelated types
        raise _damaged(path, error) from error
    if not model.graph.node and not model.graph.output:
        raise ArtifactError(f"{path} holds no graph", hint="export the network again")
    _require_beside(path, model)
    try:
        _read_once(path, model)
    except Exception as error:  # see above
        raise _damaged(path, error) from error
    return model


def inputs_of(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return what a file takes; old files list their weights among the inputs as well."""
    weights = {value.name for value in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Return the nodes of a graph and of the graphs within it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from nodes_of(inner)


def check_opset(model: onnx.ModelProto) -> Check:
    """Check that the operators' versions are declared, and known to the installed onnx."""
    name, newest = "opset", onnx.defs.onnx_opset_version()
    versions = {entry.domain: entry.version for entry in model.opset_import}
    default = next((versions[domain] for domain in _DEFAULT_DOMAINS if domain in versions), None)
    if default is None:
        return Check(name=name, ok=False, detail="the file does not say which opset it is of")
    if not 1 <= default <= newest:
        return Check(name=name, ok=False, detail=f"{default}; onnx knows up to {newest}")
    used = {node.domain for node in nodes_of(model.graph)} - {*_DEFAULT_DOMAINS}
    undeclared = sorted(used - versions.keys())
    if undeclared:
        return Check(name=name, ok=False, detail=f"no version of {', '.join(undeclared)}")
    others = "".join(f", {domain} {versions[domain]}" for domain in sorted(used))
    return Check(name=name, ok=True, detail=f"{default}{others}")


def check_dead(model: onnx.ModelProto) -> Check:
    """Check that every weight in the file is read by some node."""
    read = {key for node in nodes_of(model.graph) for key in node.input}
    read |= {value.name for value in model.graph.output}
    dead = [value for value in model.graph.initializer if value.name not in read]
    detail = f"none of {len(model.graph.initializer)}"
    if dead:
        numbers = sum(_numbers(value) for value in dead)
        named = ", ".join(value.name for value in dead[:_LISTED])
        detail = f"{len(dead)} that nothing reads, {numbers:,} numbers: {named}"
    return Check(name="dead initializers", ok=not dead, detail=detail)


def check_external(path: Path, model: onnx.ModelProto) -> Check:
    """Say which files beside an ONNX file hold its weights; :func:`read_onnx` has found them."""
    names = sorted({name for name, _ in external_parts(path, model)} - {path.name})
    listed = ", ".join(f"{name} ({path.with_name(name).stat().st_size:,} bytes)" for name in names)
    return Check(name="external data", ok=True, detail=listed or "none: one file holds everything")


def _require_beside(path: Path, model: onnx.ModelProto) -> None:
    for name, needed in external_parts(path, model):
        beside = path.parent / name
        if not beside.is_file():
            raise ArtifactError(
                f"{path} keeps weights in {name}, which is missing",
                hint="copy both files together, or export the network again",
            )
        if beside.stat().st_size < needed:
            raise ArtifactError(
                f"{beside} has {beside.stat().st_size:,} bytes, {path.name} needs {needed:,}",
                hint="it is cut short or of another export; export the network again",
            )


def _read_once(path: Path, model: onnx.ModelProto) -> None:
    """Read what lies beside a file, a weight at a time: onnx refuses links and odd places."""
    for value in model.graph.initializer:
        if (
            value.data_location == onnx.TensorProto.EXTERNAL
            and ExternalDataInfo(value).location != path.name
        ):
            weight = onnx.TensorProto()
            weight.CopyFrom(value)
            load_external_data_for_tensor(weight, str(path.parent))


def external_parts(path: Path, model: onnx.ModelProto) -> Iterator[tuple[str, int]]:
    """Return what files hold large weights, each with the place of the last byte that one needs.

    Raises:
        ArtifactError: One is not in the folder of the file.
    """
    for value in model.graph.initializer:
        if value.data_location != onnx.TensorProto.EXTERNAL:
            continue
        info = ExternalDataInfo(value)
        place = PurePosixPath(info.location)
        if not info.location or place.is_absolute() or ".." in place.parts:
            raise ArtifactError(
                f"{path} keeps weights outside its folder, in {info.location!r}",
                hint="export the network again, with weights beside the file",
            )
        yield info.location, (info.offset or 0) + (info.length or 0)


def _numbers(value: onnx.TensorProto) -> int:
    count = 1
    for size in value.dims:
        count *= size
    return count


def _damaged(path: Path, error: Exception) -> ArtifactError:
    return ArtifactError(
        f"{path} is damaged or no ONNX file ({type(error).__name__})",
        hint="export the network again",
    )
