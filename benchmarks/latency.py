"""Multiply-accumulates removed against measured speed, on five networks.

Every network is cut three times: by half the measured latency; by half the multiply-accumulates;
and by as many, with widths rounded to multiples of 16. Files are timed in turn with the unpruned
one. Speed depends on widths and not on weights, so torchvision's and timm's networks are taken
untrained, and the same fraction of every group goes.

    python benchmarks/latency.py --out latency.json        (ten minutes on two cores)
    python benchmarks/latency.py --out latency.json --table --markdown
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

if not __package__:
    # Run as a script: this folder's coverage.py would be taken for the library of that name.
    sys.path[0] = str(Path(__file__).parents[1])

import graphprune as gp
from benchmarks.contest.table import Table, markdown, show
from benchmarks.networks import DEPTHS, load
from graphprune.errors import BudgetError
from graphprune.latency import Bench, Interval
from graphprune.latency_target import LatencyOptions, latency_model, reach_latency
from graphprune.selection import select

NETWORKS = (
    "torchvision:resnet50",
    "torchvision:mobilenet_v2",
    "torchvision:efficientnet_b0",
    "timm:vit_tiny_patch16_224",
    "resnet20",
)


@dataclass(frozen=True)
class Result:
    """One network, cut one way.

    Args:
        network: Its name.
        plan: What was asked for.
        macs: Share of the multiply-accumulates that went.
        milliseconds: Of a run of its file.
        speedup: Times that it is faster than the unpruned network, with a 95 % interval.
    """

    network: str
    plan: str
    macs: float
    milliseconds: float
    speedup: tuple[float, float, float]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, or print the table of a run."""
    options = _parsed(arguments)
    if options.table:
        results = [Result(**row) for row in json.loads(options.out.read_text())["results"]]
    else:
        results = []
        for name in options.networks:
            results += _measured(name, options)
            if options.out:
                rows = [asdict(result) for result in results]
                options.out.write_text(json.dumps({"results": rows}, indent=1))
    tables = [_table(results)]
    if options.markdown:
        print(markdown(tables))
    else:
        show(tables)
    return 0


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    cache = Path(tempfile.gettempdir()) / "graphprune-shapley"
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="models and data")
    parser.add_argument("--cache", type=Path, default=cache, help="trained weights")
    parser.add_argument("--ratio", type=float, default=0.5, help="share of the cost that goes")
    parser.add_argument("--scope", choices=["group", "global"], default="group")
    parser.add_argument("--round-to", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=15.0, help="time to bench each network")
    parser.add_argument("--out", type=Path, help="results, as JSON")
    parser.add_argument("--table", action="store_true", help="print the table of --out and stop")
    parser.add_argument("--markdown", action="store_true", help="print tables as Markdown")
    return parser.parse_args(arguments)


def _measured(name: str, options: argparse.Namespace) -> list[Result]:
    """Cut a network every way and time all files in turn."""
    graph = gp.trace(*_network(name, options))
    ranking = gp.rank(graph, criterion="l2")
    with tempfile.TemporaryDirectory() as folder:
        files = {"unpruned": Path(folder) / "unpruned.onnx"}
        plans = _plans(ranking, files["unpruned"], options)
        for label, plan in plans.items():
            files[label] = Path(folder) / f"{len(files)}.onnx"
            gp.export_onnx(gp.prune(graph, plan), files[label])
        timing = gp.BenchOptions(
            threads=options.threads, batch=options.batch, provider="cpu", seconds=options.seconds
        )
        return _results(name, plans, gp.bench(list(files.values()), timing))


def _network(name: str, options: argparse.Namespace) -> tuple[nn.Module, tuple[torch.Tensor]]:
    if name in DEPTHS:
        return load(name, options.shared, options.cache), (torch.randn(2, 3, 32, 32),)
    source = gp.ModelSource(spec=name, input_shapes=((3, 224, 224),))
    return gp.load_model(source).module, (torch.randn(2, 3, 224, 224),)


def _plans(
    ranking: gp.Ranking, original: Path, options: argparse.Namespace
) -> dict[str, gp.PruningPlan]:
    """Select every way that is reachable; ``original`` is written on the way."""
    choose = partial(select, ranking, scope=options.scope)
    share = f"{options.ratio:.0%}"
    by_macs = partial(choose, ratio=options.ratio, of="macs")
    rounding = options.round_to

    def by_latency() -> gp.PruningPlan:
        timing = LatencyOptions(threads=options.threads, batch=options.batch)
        model = latency_model(ranking.graph, original, timing)
        return reach_latency(
            ranking.graph,
            options.ratio,
            lambda ratio: choose(ratio=ratio, of="latency", latency=model),
            original,
            timing,
        ).plan

    ways = {
        f"{share} of the latency": by_latency,
        f"{share} of the MACs": by_macs,
        f"the same, `--round-to {rounding}`": partial(by_macs, round_to=rounding),
    }
    plans = {}
    for label, way in ways.items():
        try:
            plans[label] = way()
        except BudgetError as error:
            print(f"{label}: {error.message}", file=sys.stderr, flush=True)
    return plans


def _results(name: str, plans: dict[str, gp.PruningPlan], timed: Bench) -> list[Result]:
    unpruned, *files = timed.files
    one = Interval(1.0, 1.0, 1.0, unpruned.seconds.n)
    shares = [0.0, *(1 - plan.after.macs / plan.before.macs for plan in plans.values())]
    rows = zip(
        ["unpruned", *plans], shares, [unpruned, *files], [one, *timed.speedups], strict=True
    )
    results = []
    for label, macs, file, speedup in rows:
        interval = (speedup.median, speedup.low, speedup.high)
        found = Result(name, label, macs, 1e3 * file.seconds.median, interval)
        print(json.dumps(asdict(found)), file=sys.stderr, flush=True)
        results.append(found)
    return results


def _table(results: Sequence[Result]) -> Table:
    body = []
    for result in results:
        median, low, high = result.speedup
        first = result.plan == "unpruned"
        speedup = "" if first else f"{median:.2f} ({low:.2f} to {high:.2f})"
        body.append(
            (
                result.network.partition(":")[2] or result.network if first else "",
                result.plan,
                "" if first else f"{100 * result.macs:.0f} %",
                f"{result.milliseconds:.3g}",
                speedup,
            )
        )
    return Table(
        "speed of files in onnxruntime",
        ("network", "asked for", "MACs removed", "ms", "times as fast (95 % interval)"),
        tuple(body),
    )


if __name__ == "__main__":
    raise SystemExit(main())
