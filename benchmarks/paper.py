r"""The paper reproduced: Ancona, Öztireli and Gross (2020), arXiv 2006.01795.

    python benchmarks/paper.py toy untrained                              (a minute)
    python benchmarks/paper.py robustness --networks mlp cnn              (minutes)
    python benchmarks/paper.py lowdata --networks cnn --images 50 300     (minutes)
    python benchmarks/paper.py robustness --networks vgg resnet20 --images 50 --judges 128 \
        --out paper.json                                                  (20 minutes)
    python benchmarks/paper.py --out paper.json --table --markdown

Every part stands for itself. With --out, results are added to those of earlier runs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

# Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if not __package__:
    # Run as a script: this folder's coverage.py would be taken for the library of that name.
    sys.path[0] = str(Path(__file__).parents[1])

from benchmarks.contest.table import Table, markdown, show
from benchmarks.reproduction import lowdata, robustness, toy, untrained
from benchmarks.reproduction.cases import CASES, find
from graphprune.files import write_text

FORMAT = "graphprune-paper-benchmark/1"

Row = Any
"""A frozen record of one part."""

_ROWS: dict[str, type[Row]] = {
    "toy": toy.Toy,
    "untrained": untrained.Grown,
    "robustness": robustness.Areas,
    "lowdata": lowdata.Tuned,
}
_TABLES: dict[str, Callable[[list[Row]], Table]] = {
    "toy": toy.table,
    "untrained": untrained.table,
    "robustness": robustness.table,
    "lowdata": lowdata.table,
}

_NAMED: dict[type[Row], tuple[str, ...]] = {
    toy.Toy: ("metric",),
    untrained.Grown: ("seed",),
    robustness.Areas: ("network", "metric"),
    lowdata.Tuned: ("network", "metric", "kept", "images"),
}
"""What says what a row is about; the rest was measured."""

PARTS = tuple(_ROWS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run parts of the benchmark, or print the tables of earlier runs."""
    options = parsed(arguments)
    results = read(options.out) if options.out and options.out.exists() else {}
    if not options.table:
        for part in options.parts:
            results[part] = merged(results.get(part, []), list(_run(part, options)))
            if options.out:
                write(options.out, results)
    shown = [_TABLES[part](results[part]) for part in PARTS if results.get(part)]
    if options.markdown:
        print(markdown(shown))
    else:
        show(shown)
    return 0


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    cache = Path(tempfile.gettempdir()) / "graphprune-shapley"
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--networks", choices=CASES, nargs="+", default=["mlp", "cnn"])
    parser.add_argument("--images", type=int, nargs="+", default=[100], help="that rank and tune")
    parser.add_argument("--judges", type=int, help="images that judge robustness; all by default")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=30, help="of fine-tuning, at most")
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="models and data")
    parser.add_argument("--cache", type=Path, default=cache, help="weights trained here")
    parser.add_argument("--out", type=Path, help="results, as JSON")
    parser.add_argument("--table", action="store_true", help="print the tables of --out and stop")
    parser.add_argument("--markdown", action="store_true", help="print tables as Markdown")
    options = parser.parse_args(arguments)
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"{unknown[0]!r} is none of {', '.join(PARTS)}")
    if options.table and options.out is None:
        parser.error("--table needs --out")
    return options


def _run(part: str, options: argparse.Namespace) -> Iterator[Row]:
    if part == "toy":
        yield from toy.toy()
    elif part == "untrained":
        yield from (untrained.untrained(seed) for seed in range(options.seeds))
    else:
        for name in options.networks:
            case = find(name, options.shared, options.cache)
            for images in options.images:
                print(f"{part}: {name}, {images} images", file=sys.stderr, flush=True)
                if part == "robustness":
                    yield from robustness.robustness(case, images, options.seeds, options.judges)
                else:
                    yield from lowdata.prune_and_tune(case, images, options.seeds, options.epochs)


def merged(old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """Return new rows after those old ones that they do not replace."""
    replaced = {_key(row) for row in new}
    return [*(row for row in old if _key(row) not in replaced), *new]


def _key(row: Row) -> tuple[object, ...]:
    """Return what a row is about."""
    return tuple(value for name, value in asdict(row).items() if name in _NAMED[type(row)])


def write(out: Path, results: dict[str, list[Row]]) -> None:
    """Write all results."""
    told = {part: [asdict(row) for row in rows] for part, rows in results.items()}
    write_text(out, json.dumps({"format": FORMAT, **told}, indent=1) + "\n")


def read(out: Path) -> dict[str, list[Row]]:
    """Return the results of earlier runs."""
    told = json.loads(out.read_text(encoding="utf-8"))
    return {part: [_row(part, each) for each in told[part]] for part in PARTS if part in told}


def _row(part: str, fields: dict[str, Any]) -> Row:
    lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
    return _ROWS[part](**{**fields, **lists})


if __name__ == "__main__":
    sys.exit(main())
