"""Cells of the table: what was measured, written as it is done, so that a killed run goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

FORMAT = "graphprune-quality-benchmark/1"


@dataclass(frozen=True)
class Key:
    """Which cell.

    Args:
        network: Name of the network.
        contender: Name of the contender.
        ratio: Share of multiply-accumulates asked for.
        repair: What repaired the network.
        seed: Which drew the calibration images.
    """

    network: str
    contender: str
    ratio: float
    repair: str
    seed: int


@dataclass(frozen=True)
class Cell(Key):
    """What was found.

    Args:
        party: Whose the contender is.
        removed: Share of multiply-accumulates reached.
        seconds: That choosing took.
        repair_seconds: That repairing took.
        selection: Share of selection images classified rightly.
        test: Share of test images.
        hits: Which of the test images, packed into hexadecimal digits.
        images: How many test images there are.
        error: Why there is no figure; empty if there is one.
    """

    party: str
    removed: float = 0.0
    seconds: float = 0.0
    repair_seconds: float = 0.0
    selection: float = 0.0
    test: float = 0.0
    hits: str = ""
    images: int = 0
    error: str = ""

    @property
    def key(self) -> Key:
        """Which cell it is."""
        return Key(*(getattr(self, each.name) for each in fields(Key)))

    def right(self) -> npt.NDArray[np.float64]:
        """Return, for every test image, 1 if it was classified rightly, else 0."""
        bits = np.frombuffer(bytes.fromhex(self.hits), np.uint8)
        return np.unpackbits(bits, count=self.images).astype(np.float64)


def packed(hits: Tensor) -> str:
    """Return Bool (n_images,) as hexadecimal digits."""
    return np.packbits(hits.numpy()).tobytes().hex()


class Store:
    """A file of cells, one a line, below a line that says what all of them were measured with.

    Args:
        file: It need not exist.
        settings: What all cells are measured with.

    Raises:
        ValueError: The file holds cells that were measured with other settings.
    """

    def __init__(self, file: Path, settings: dict[str, object]) -> None:
        self._file = file
        head = json.dumps({"format": FORMAT, "settings": settings})
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(head + "\n", encoding="utf-8")
        told = file.read_text(encoding="utf-8").split("\n", 1)[0]
        if told != head:
            raise ValueError(f"{file} was measured with {told}, not with {head}")
        self._done = {cell.key: cell for cell in read(file)}

    def __contains__(self, key: object) -> bool:
        return key in self._done

    @property
    def cells(self) -> list[Cell]:
        """All cells there are."""
        return list(self._done.values())

    def add(self, cell: Cell) -> None:
        """Write one cell."""
        self._done[cell.key] = cell
        with self._file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(asdict(cell)) + "\n")


def read(file: Path) -> list[Cell]:
    """Return the cells of a file, the last of each key."""
    return list({cell.key: cell for cell in _lines(file)}.values())


def _lines(file: Path) -> Iterator[Cell]:
    *whole, last = file.read_text(encoding="utf-8").split("\n")
    if last:  # a run was killed while it wrote this line: the next one starts on a line of its own
        file.write_text("\n".join(whole) + "\n", encoding="utf-8")
    for line in whole[1:]:
        yield Cell(**json.loads(line))
