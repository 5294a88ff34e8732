"""What an ONNX file says about itself: valid, of consistent shapes, and of the network's size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import torch
from torch import Tensor, fx, nn

from graphprune.tracing import named_tensors
from graphprune.verify.contents import external_parts, inputs_of
from graphprune.verify.report import Check

_FOLDED = 0.02
"""Largest share of weights that the ONNX optimizer may have computed into other constants."""

_CONTRACTIONS = ("conv", "linear", "addmm", "embedding")
"""Ops that read their weights from the file as they are, by what their names contain."""

_LISTED = 3
"""How many of the weights at fault a check names."""

Shape = tuple[int, ...]


def check_file(path: Path, model: onnx.ModelProto) -> Check:
    """Check a file by ONNX's own checker, shape inference included.

    The checker reads a file whole, weights and all, several times over. It looks at no number of
    large weights and so is given the outline, beside files of the right size with nothing in them.

    Args:
        path: The file.
        model: Its outline.
    """
    name = "ONNX checker"
    try:
        with TemporaryDirectory() as folder:
            for beside, size in external_parts(path, model):
                _extend(Path(folder) / beside, size)
            outline = Path(folder) / f"{path.name}.outline"
            outline.write_bytes(model.SerializeToString())
            onnx.checker.check_model(outline, full_check=True)
    except Exception as error:  # the checker's errors have no common base
        return Check(name=name, ok=False, detail=" ".join(str(error).split())[:300])
    return Check(name=name, ok=True, detail="valid; strict shape inference agrees")


def _extend(path: Path, size: int) -> None:
    """Make a file at least that large; nothing is written, so it takes no room."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as stream:
        stream.truncate(max(size, stream.tell()))


def check_batch(model: onnx.ModelProto, *, dynamic: bool) -> Check:
    """Check that the batch is one symbol in all inputs.

    What the outputs do with it is seen when the file is run on several batches.

    Args:
        model: The file.
        dynamic: Whether the network takes any batch; if not, a fixed batch is right.
    """
    name = "dynamic batch"
    leading = {value.name: _leading(value) for value in inputs_of(model)}
    fixed = [f"{key} has {size}" for key, size in leading.items() if isinstance(size, int)]
    symbols = {size for size in leading.values() if isinstance(size, str)}
    if not dynamic:
        return Check(name=name, ok=True, detail="fixed, as in the network itself")
    if fixed or len(symbols) > 1:
        return Check(name=name, ok=False, detail=", ".join(fixed) or f"several: {sorted(symbols)}")
    return Check(name=name, ok=bool(symbols), detail=f"named {next(iter(symbols), 'nothing')}")


def check_inputs(model: onnx.ModelProto, leaves: Sequence[Tensor]) -> Check:
    """Check that the file takes the network's inputs: number, dtype and shape but for the batch.

    A dim that the file leaves open takes any size.
    """
    given = inputs_of(model)
    theirs = " and ".join(map(_described, given))
    ours = " and ".join(
        f"{str(leaf.dtype).removeprefix('torch.')} {tuple(leaf.shape[1:])}" for leaf in leaves
    )
    same = len(given) == len(leaves) and all(map(_takes, given, leaves))
    return Check(name="inputs", ok=same, detail=theirs if same else f"{theirs} instead of {ours}")


def check_planned(model: onnx.ModelProto, planned: Mapping[str, Shape]) -> Check:
    """Check that what the file holds under the name of a cut tensor has the size that is left.

    Weights that the ONNX optimizer has renamed are left to :func:`check_weights`.

    Args:
        model: The file.
        planned: Shape of every tensor that the plan cuts, worked out from the original's shape and
            the plan alone.
    """
    stored = {value.name: tuple(value.dims) for value in model.graph.initializer}
    found = [key for key in planned if key in stored]
    wrong = [
        f"{key} is {stored[key]} instead of {planned[key]}"
        for key in found
        if sorted(stored[key]) != sorted(planned[key])
    ]
    detail = "; ".join(wrong[:_LISTED]) or f"{len(found)} of {len(planned)} found by name"
    return Check(name="sizes of the plan", ok=not wrong, detail=detail)


def check_weights(model: onnx.ModelProto, network: nn.Module) -> Check:
    """Check that every weight of the network lies in the file, in its shape or transposed.

    Weights are parameters of rank 2 and more that a convolution, linear layer or embedding reads;
    others may be gone, such as batch norms, which are folded into convolutions, and tables of
    positions, which are looked up beforehand. What else is computed from constants, as in Swin 2,
    is a small share.
    """
    name = "weights"
    stored = {value.name: tuple(value.dims) for value in model.graph.initializer}
    weights = _used_weights(network)
    wrong = [
        f"{key} is {stored[key]} instead of {shape}"
        for key, shape in weights.items()
        if key in stored and sorted(stored[key]) != sorted(shape)
    ]
    if wrong:
        return Check(name=name, ok=False, detail="; ".join(wrong[:_LISTED]))
    absent = _absent(weights, stored.values())
    total = sum(map(_size, weights.values()))
    lost = sum(_size(weights[key]) for key in absent)
    found = f"{len(weights) - len(absent)} of {len(weights)} in the network's shapes"
    if lost > _FOLDED * total:
        return Check(name=name, ok=False, detail=f"{found}; no {', '.join(absent[:_LISTED])}")
    return Check(name=name, ok=True, detail=f"{found}, {total:,} numbers")


def _absent(weights: dict[str, Shape], stored: Iterable[Shape]) -> list[str]:
    """Return the weights without an initializer of their shape, each of which counts once."""
    left = Counter(tuple(sorted(shape)) for shape in stored)
    absent = []
    for key, shape in weights.items():
        place = tuple(sorted(shape))
        if left[place]:
            left[place] -= 1
        else:
            absent.append(key)
    return absent


def _used_weights(network: nn.Module) -> dict[str, Shape]:
    """Return shapes of the weights that are read as they are, shared ones once."""
    read = _read_by_contractions(network) if isinstance(network, fx.GraphModule) else None
    found: dict[int, tuple[str, Shape]] = {}
    for name, tensor in named_tensors(network).items():
        is_read = read is None or name in read
        if is_read and isinstance(tensor, nn.Parameter) and tensor.dim() > 1:
            found.setdefault(id(tensor), (name, tuple(tensor.shape)))
    return dict(found.values())


def _read_by_contractions(network: fx.GraphModule) -> set[str]:
    """Return the weights that some contraction of what depends on the inputs reads.

    Contractions that no output depends on are left out of the file.
    """
    live = _depend_on_inputs(network.graph) & _outputs_depend_on(network.graph)
    return {
        str(node.target)
        for node in network.graph.find_nodes(op="get_attr")
        for user in node.users
        if user in live and any(part in str(user.target) for part in _CONTRACTIONS)
    }


def _depend_on_inputs(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes whose values, and not only their sizes, depend on the network's inputs."""
    live: set[fx.Node] = set()
    for node in graph.nodes:
        size = "sym_size" in str(node.target)
        if node.op == "placeholder" or (not size and not live.isdisjoint(node.all_input_nodes)):
            live.add(node)
    return live


def _outputs_depend_on(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes that some output is computed from."""
    needed: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "output" or node in needed:
            needed.update(node.all_input_nodes)
    return needed


def _takes(value: onnx.ValueInfoProto, leaf: Tensor) -> bool:
    kind = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    sizes = [dim.dim_value or None for dim in kind.shape.dim]
    return (
        dtype == str(leaf.dtype).removeprefix("torch.")
        and len(sizes) == leaf.dim()
        and all(
            size in (None, given) for size, given in zip(sizes[1:], leaf.shape[1:], strict=True)
        )
    )


def _leading(value: onnx.ValueInfoProto) -> int | str | None:
    dims = value.type.tensor_type.shape.dim
    if not dims:
        return None
    return str(dims[0].dim_param) if dims[0].dim_param else int(dims[0].dim_value)


def _described(value: onnx.ValueInfoProto) -> str:
    kind = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    return f"{dtype} {tuple(dim.dim_param or dim.dim_value for dim in kind.shape.dim[1:])}"


def _size(shape: Shape) -> int:
    return int(torch.Size(shape).numel())
