"""Shapley values of pruning games: how much error is left after how much work, ours and others'.

All contestants play the same games on the same images: the units of one group of channels, absent
where they are read, worth minus the divergence from the unpruned network.

    python benchmarks/shapley.py --out shapley.json        (about half an hour on two cores)
    python benchmarks/shapley.py --quick                   (a minute)
    python benchmarks/shapley.py --out shapley.json --markdown --table

Errors are measured in games that remember coalitions, so that contestants, budgets and seeds share
evaluations; there, seconds are a contestant's own time plus the time of every coalition it asked
for. The runs that decide about targets are then run again, alone, from the beginning.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from fnmatch import fnmatch
from pathlib import Path

# Before torch is imported: two jobs share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if not __package__:
    # Run as a script: this folder's coverage.py would be taken for the library of that name.
    sys.path[0] = str(Path(__file__).parents[1])

from benchmarks.contest.stage import GroupResult, Row, Settings, as_json, board, curves, timed
from benchmarks.contest.table import markdown, show, tables
from benchmarks.contest.verdict import to_time
from benchmarks.networks import NETWORKS

GROUPS = {
    "resnet20": (
        "layer1.1.conv1.weight",
        "layer2.1.conv1.weight",
        "layer3.1.conv1.weight",
        "conv1.weight",
        "layer3.0.conv2.weight",
    ),
    "resnet56": ("layer3.1.conv1.weight", "layer3.7.conv1.weight", "layer3.0.conv2.weight"),
    "vgg": ("features.10.weight", "features.17.weight"),
}
"""Groups that are played by default: early, middle and late interiors, then streams."""

QUICK = {"resnet20": ("layer3.1.conv1.weight", "layer3.0.conv2.weight")}

_BAD_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, or print the tables of a run."""
    options = parsed(arguments)
    if options.table:
        results = read(options.out)
    else:
        if not (options.shared / "models").is_dir():
            print(f"{options.shared} has no models; name the folder: --shared", file=sys.stderr)
            return _BAD_USAGE
        results = run(chosen(options), settings_of(options), options.jobs)
        if options.out:
            write(options.out, results, options)
    shown = tables(results)
    if options.markdown:
        print(markdown(shown))
    else:
        show(shown)
    return 0


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    cache = Path(tempfile.gettempdir()) / "graphprune-shapley"
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="models and data")
    parser.add_argument("--cache", type=Path, default=cache, help="references, trained weights")
    parser.add_argument("--networks", choices=NETWORKS, nargs="+", default=[*GROUPS])
    parser.add_argument("--groups", nargs="+", help="patterns of groups, such as 'layer3.*'")
    parser.add_argument("--budgets", type=int, nargs="+", help="evaluations a unit")
    parser.add_argument("--most", type=int, default=640, help="evaluations of one run")
    parser.add_argument("--seeds", type=int, help="runs of each contestant and budget")
    parser.add_argument("--images", type=int, help="calibration images")
    parser.add_argument("--reference", type=int, help="evaluations a unit of the reference")
    parser.add_argument("--rivals", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--contestants", nargs="+", default=["*"], help="patterns of names")
    parser.add_argument("--jobs", type=int, default=2, help="groups at a time, for the errors")
    parser.add_argument("--threads", type=int, default=1, help="of each job")
    parser.add_argument("--quick", action="store_true", help="two groups, little of everything")
    parser.add_argument("--out", type=Path, help="results, as JSON")
    parser.add_argument("--table", action="store_true", help="print the tables of --out and stop")
    parser.add_argument("--markdown", action="store_true", help="print tables as Markdown")
    options = parser.parse_args(arguments)
    if options.table and options.out is None:
        parser.error("--table needs --out")
    return options


def settings_of(options: argparse.Namespace) -> Settings:
    """Return what all groups are played with."""
    quick = options.quick
    budgets = options.budgets or ([2, 5, 10] if quick else [1, 2, 3, 5, 10, 20, 50])
    return Settings(
        shared=options.shared,
        cache=options.cache,
        images=options.images or 32,
        budgets=tuple(sorted(set(budgets))),
        most=options.most,
        seeds=options.seeds or (1 if quick else 3),
        reference=options.reference or (100 if quick else 200),
        rivals=options.rivals,
        who=tuple(options.contestants),
        threads=options.threads,
    )


def chosen(options: argparse.Namespace) -> list[tuple[str, str]]:
    """Return networks and groups to play, the default ones unless patterns are given."""
    default = QUICK if options.quick else GROUPS
    found = []
    for name in options.networks:
        if options.groups is None:
            found += [(name, group) for group in default.get(name, ())]
            continue
        groups = board(name, settings_of(options)).graph.groups
        found += [
            (name, group.name)
            for group in groups
            if any(fnmatch(group.name, pattern) for pattern in options.groups)
        ]
    return found


def run(games: Sequence[tuple[str, str]], settings: Settings, jobs: int) -> list[GroupResult]:
    """Play all games: errors several at a time, then real times one after the other."""
    for name in dict.fromkeys(name for name, _ in games):
        board(name, settings)  # trains what has to be trained, once
    if jobs > 1:
        with ProcessPoolExecutor(jobs, mp_context=mp.get_context("spawn")) as pool:
            waiting = [pool.submit(curves, *game, settings) for game in games]
            results = [each.result() for each in waiting]
    else:
        results = [curves(*game, settings) for game in games]
    return [timed(result, to_time(result), settings) for result in results]


def write(out: Path, results: Sequence[GroupResult], options: argparse.Namespace) -> None:
    """Write the results."""
    told = {
        "format": "graphprune-shapley-benchmark/1",
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "options": {key: str(value) for key, value in vars(options).items()},
        "results": [as_json(result) for result in results],
    }
    out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def read(out: Path) -> list[GroupResult]:
    """Return the results of an earlier run."""
    told = json.loads(out.read_text(encoding="utf-8"))
    return [
        GroupResult(**{**result, "rows": tuple(Row(**row) for row in result["rows"])})
        for result in told["results"]
    ]


if __name__ == "__main__":
    sys.exit(main())
