"""Running networks node by node on all batches, so that a layer can be changed before it runs.

A network is walked breadth first: a node is computed for every batch before the next one is
looked at. Values are kept for as long as something needs them, in memory while it lasts and then in
a temporary file.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from graphprune.analysis import attribute_of

Lookup = Callable[[fx.Node], Any]
"""A node's value on the batch at hand."""


class Shelf:
    """Where values are kept; those that do not fit the memory go to files.

    Args:
        max_bytes: What tensors may take in memory.
        folder: Where to put the others.
    """

    def __init__(self, max_bytes: int, folder: Path) -> None:
        self._left = max_bytes
        self._folder = folder
        self._count = 0

    def place(self, value: Any) -> Any:
        """Return a value that holds the same and may lie in a file."""
        return pytree.tree_map_only(Tensor, self._placed, value)

    def discard(self, value: Any) -> None:
        """Say that a value is needed no more."""
        for tensor in pytree.tree_leaves(value):
            if isinstance(tensor, Tensor) and not _is_filed(tensor):
                self._left += tensor.nbytes

    def _placed(self, tensor: Tensor) -> Tensor:
        if _is_filed(tensor):  # a view of one
            return tensor
        if tensor.nbytes <= self._left or tensor.numel() == 0 or tensor.device.type != "cpu":
            self._left -= tensor.nbytes
            return tensor
        self._count += 1
        path = self._folder / str(self._count)
        filed = torch.from_file(
            str(path), shared=True, size=tensor.numel(), dtype=tensor.dtype
        ).view(tensor.shape)
        filed.copy_(tensor)
        path.unlink()  # the system keeps it for as long as the tensor lives
        return filed


def _is_filed(tensor: Tensor) -> bool:
    return bool(tensor.untyped_storage().filename)


@contextmanager
def shelf(max_bytes: int) -> Iterator[Shelf]:
    """Make a shelf whose files go when it does."""
    with tempfile.TemporaryDirectory(prefix="graphprune-", ignore_cleanup_errors=True) as folder:
        yield Shelf(max_bytes, Path(folder))


class Walk:
    """One network on all batches.

    Args:
        module: The network; it may be changed between nodes.
        batches: Flat inputs of every batch.
        keep: Nodes that are asked for from outside, and how often; each :meth:`take` counts.
        shelf: Where values are kept.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        batches: Sequence[tuple[Any, ...]],
        keep: Mapping[str, int],
        shelf: Shelf,
    ) -> None:
        self._module = module
        self._nodes = iter(module.graph.nodes)
        self._shelf = shelf
        self._inputs = batches
        self._n_inputs = 0
        self._values: dict[str, list[Any]] = {}
        self._wanted = Counter({node.name: len(node.users) for node in module.graph.nodes})
        self._wanted.update(keep)
        self._done: set[str] = set()
        self._next = next(self._nodes)

    @property
    def n_batches(self) -> int:
        """How many batches there are."""
        return len(self._inputs)

    def size(self, batch: int) -> int:
        """How many samples a batch holds."""
        return len(self._inputs[batch][0])

    def until(self, name: str) -> None:
        """Compute everything that comes before a node."""
        while self._next.name != name:
            self._compute(self._next)

    def through(self, name: str) -> None:
        """Compute everything up to a node and the node itself."""
        while name not in self._done:
            self._compute(self._next)

    def value(self, name: str, batch: int) -> Any:
        """Return what a node gave for a batch."""
        return self._values[name][batch]

    def lookup(self, batch: int) -> Lookup:
        """Return how to look up values of a batch."""

        def look(node: fx.Node) -> Any:
            if node.op == "get_attr":
                return attribute_of(self._module, str(node.target))
            return self._values[node.name][batch]

        return look

    def take(self, name: str) -> None:
        """Say that one of those who asked for a node has what it wanted."""
        self._want_less([name])

    def _compute(self, node: fx.Node) -> None:
        made = [self._made(node, batch) for batch in range(self.n_batches)]
        if node.op == "placeholder":
            self._n_inputs += 1
        self._done.add(node.name)
        if self._wanted[node.name] > 0 and node.op != "get_attr":
            self._values[node.name] = [self._shelf.place(value) for value in made]
        self._want_less(source.name for source in node.all_input_nodes)
        self._next = next(self._nodes, node)

    def _made(self, node: fx.Node, batch: int) -> Any:
        if node.op == "placeholder":
            return self._inputs[batch][self._n_inputs]
        if node.op != "call_function":
            return None
        return evaluated(node, self.lookup(batch))

    def _want_less(self, names: Iterable[str]) -> None:
        for name in names:
            self._wanted[name] -= 1
            if self._wanted[name] == 0:
                for value in self._values.pop(name, ()):
                    self._shelf.discard(value)


def evaluated(node: fx.Node, lookup: Lookup) -> Any:
    """Compute a call."""
    arguments = fx.map_arg(node.args, lookup), fx.map_arg(node.kwargs, lookup)
    return node.target(*arguments[0], **arguments[1])  # type: ignore[operator]
