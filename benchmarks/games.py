"""Which game ranks best: accuracy after pruning by each, on a pretrained network.

The same share of multiply-accumulates goes, without any training, by scores of the paper's group
games, of the whole network's game over all coalitions, of the hierarchical game, of the network's
game near the grand coalition, and of the budget band (the default). Selection is global, by score
per cost, or the same fraction of every group.

    python benchmarks/games.py --out games.json            (half an hour on two cores)
    python benchmarks/games.py --out games.json --table --markdown
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

if not __package__:
    # Run as a script: this folder's coverage.py would be taken for the library of that name.
    sys.path[0] = str(Path(__file__).parents[1])

import graphprune as gp
from benchmarks.contest.table import Table, markdown, show
from benchmarks.networks import load, normalised

_REPAIRS = ("none", "batchnorm", "least-squares")


@dataclass(frozen=True)
class Contender:
    """A way to score units.

    Args:
        name: For the table.
        game: As ``--game`` takes it.
        estimator: As ``--estimator`` takes it.
        semivalue: As ``--semivalue`` takes it.
        budget: Coalitions a unit; None for the default.
        aggregate: As ``--aggregate`` takes it.
        for_repair: As ``--for-repair`` takes it.
    """

    name: str
    game: str
    estimator: str = "auto"
    semivalue: str = "shapley"
    budget: int | None = None
    aggregate: str = "magnitude"
    for_repair: str = "none"


CONTENDERS = (
    Contender("group games", "group", budget=4),
    Contender("group games, signed mean", "group", budget=4, aggregate="mean"),
    Contender("group games, upper half", "group", "gaussian-process", "upper-shapley", budget=4),
    Contender("network, all coalitions", "network", "gaussian-process", budget=4),
    Contender("network, upper half", "network", "gaussian-process", "upper-shapley", budget=4),
    Contender("network, upper tenth", "network", "gaussian-process", "upper-shapley:0.9", budget=4),
    Contender("hierarchical", "hierarchical", "antithetic", budget=4),
    Contender("budget band", "network", "gradients"),
    Contender("budget band, looking ahead", "network", "gradients", for_repair="least-squares"),
)


@dataclass(frozen=True)
class Result:
    """Accuracy after pruning by one contender.

    Args:
        name: The contender.
        scope: ``global`` or ``group``.
        ratio: Share of multiply-accumulates asked for.
        seed: Of the ranking; it also chooses the calibration images.
        seconds: Of the ranking.
        accuracy: By repair.
    """

    name: str
    scope: str
    ratio: float
    seed: int
    seconds: float
    accuracy: dict[str, float]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, or print the table of a run."""
    options = _parsed(arguments)
    if options.table:
        results = [Result(**row) for row in json.loads(options.out.read_text())["results"]]
    else:
        results = _run(options)
        if options.out:
            rows = [asdict(result) for result in results]
            options.out.write_text(json.dumps({"results": rows}, indent=1))
    tables = [_table(results, repair) for repair in _REPAIRS]
    if options.markdown:
        print(markdown(tables))
    else:
        show(tables)
    return 0


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    cache = Path(tempfile.gettempdir()) / "graphprune-shapley"
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="models and data")
    parser.add_argument("--cache", type=Path, default=cache, help="trained weights")
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--images", type=int, default=128, help="calibration images")
    parser.add_argument("--test-images", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=2)
    names = [contender.name for contender in CONTENDERS]
    parser.add_argument("--games", nargs="+", default=names, choices=names, metavar="GAME")
    parser.add_argument("--scopes", nargs="+", default=["global", "group"])
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.3, 0.5])
    parser.add_argument("--out", type=Path, help="results, as JSON")
    parser.add_argument("--table", action="store_true", help="print the table of --out and stop")
    parser.add_argument("--markdown", action="store_true", help="print tables as Markdown")
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace) -> list[Result]:
    model = load(options.network, options.shared, options.cache)
    images, _ = _images(options.shared / "data" / "cifar10_calibration.npz")
    test = _images(options.shared / "data" / "cifar10_eval.npz", options.test_images)
    graph = gp.trace(model, (images[:2],))
    print(f"unpruned: {_accuracy(model, *test):.1%}", file=sys.stderr)
    results = []
    for seed in range(options.seeds):
        data = (images[seed * options.images : (seed + 1) * options.images],)
        for contender in CONTENDERS:
            if contender.name not in options.games:
                continue
            started = time.perf_counter()
            ranking = gp.rank(
                graph,
                data,
                seed=seed,
                game=contender.game,
                estimator=contender.estimator,
                semivalue=contender.semivalue,
                budget=contender.budget,
                aggregate=contender.aggregate,
                for_repair=contender.for_repair,
            )
            seconds = time.perf_counter() - started
            for scope in options.scopes:
                for ratio in options.ratios:
                    plan = gp.select(ranking, ratio=ratio, of="macs", scope=scope)
                    pruned = gp.prune(graph, plan)
                    accuracy = {
                        repair: _accuracy(_repaired(pruned, data, repair), *test)
                        for repair in _REPAIRS
                    }
                    found = Result(contender.name, scope, ratio, seed, seconds, accuracy)
                    print(json.dumps(asdict(found)), file=sys.stderr, flush=True)
                    results.append(found)
    return results


def _repaired(pruned: nn.Module, data: tuple[Tensor], repair: str) -> nn.Module:
    if repair == "none":
        return pruned
    repaired: nn.Module = gp.repair(pruned, data, method=repair)  # type: ignore[arg-type]
    return repaired


def _images(file: Path, count: int | None = None) -> tuple[Tensor, Tensor]:
    with np.load(file) as arrays:
        return normalised(arrays["x"][:count]), torch.from_numpy(arrays["y"][:count]).long()


def _accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.inference_mode():
        predicted = torch.cat([model(part).argmax(1) for part in images.split(100)])
    return float((predicted == labels).double().mean())


def _table(results: Sequence[Result], repair: str) -> Table:
    """Return mean accuracies, with the half-range over seeds where there are several."""
    cells = list(dict.fromkeys((result.scope, result.ratio) for result in results))
    body = []
    for name in dict.fromkeys(result.name for result in results):
        own = [result for result in results if result.name == name]
        seconds = np.mean([result.seconds for result in own])
        row = [name, f"{seconds:.0f}"]
        for cell in cells:
            found = [r.accuracy[repair] for r in own if (r.scope, r.ratio) == cell]
            spread = f" ± {50 * np.ptp(found):.1f}" if len(found) > 1 else ""
            row.append(f"{100 * np.mean(found):.1f}{spread}")
        body.append(tuple(row))
    head = ("game", "seconds", *(f"{scope}, {ratio:.0%}" for scope, ratio in cells))
    return Table(f"accuracy in %, repair: {repair}", head, tuple(body))


if __name__ == "__main__":
    raise SystemExit(main())
