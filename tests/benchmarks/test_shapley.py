"""benchmarks/shapley.py: metrics, the published algorithm, references and verdicts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import graphprune as gp
from benchmarks import shapley
from benchmarks.contest import rivals
from benchmarks.contest.contestants import Contestant, Found, chosen, contestants
from benchmarks.contest.games import VALUE, RememberedGame
from benchmarks.contest.metrics import magnitudes, overlap, relative_error, spearman
from benchmarks.contest.published import orders_of, play, readers_of, replay
from benchmarks.contest.reference import Reference, reference
from benchmarks.contest.stage import (
    GroupResult,
    Row,
    Settings,
    affordable,
    as_played,
    chosen_by_budget,
    invited,
    measure,
)
from benchmarks.contest.table import markdown, show, tables
from benchmarks.contest.verdict import FULL, PARTIAL, champion, first_good, targets, to_time
from benchmarks.networks import Network, PlainNetwork, ResidualNetwork, train
from graphprune.data import as_batches
from graphprune.errors import BudgetError
from graphprune.game.games import GroupGame


def randomized(network: Network) -> Network:
    """Make every unit matter, in double precision."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.05, 0.2)
            nn.init.normal_(module.bias)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight)
    return network.double().eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()


def residual() -> Network:
    torch.manual_seed(0)
    return randomized(ResidualNetwork(1, (4, 6, 8)))


def plain() -> Network:
    torch.manual_seed(0)
    return randomized(PlainNetwork((3, 0, 5, 4)))


class Closed:
    """A game of pairs: worth the product of what both members' weights are."""

    def __init__(self, n_players: int = 6, n_images: int = 3) -> None:
        generator = np.random.default_rng(0)
        self.n_players = n_players
        self.single = generator.normal(size=(n_images, n_players))
        self.pairs = generator.normal(size=(n_images, n_players, n_players))
        self.asked = 0

    def values(self, coalitions: Tensor) -> Tensor:
        x = coalitions.double().numpy()
        self.asked += len(x)
        both = np.einsum("ki,mij,kj->km", x, self.pairs, x)
        return torch.from_numpy(x @ self.single.T + both)

    @property
    def shapley(self) -> np.ndarray:
        halves = (self.pairs.sum(1) + self.pairs.sum(2)) / 2
        return self.single + halves


# ---- networks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [residual, plain])
def test_cut_networks_compute_the_same(build: type, images: Tensor) -> None:
    network = build()
    layers = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        for layer in layers[1:]:
            cut = network.cut(layer)
            called: list[str] = []
            hook = network.get_submodule(layer).register_forward_hook(
                lambda *_, called=called: called.append("")
            )
            state = cut.before(images)
            assert not called, layer
            assert torch.allclose(cut.after(*state), network(images), rtol=1e-12), layer
            assert called, layer
            hook.remove()


def test_training_lowers_the_loss() -> None:
    torch.manual_seed(0)
    network = PlainNetwork((4,))
    x, y = torch.randn(64, 3, 32, 32), torch.zeros(64, dtype=torch.int64)
    before = nn.functional.cross_entropy(network(x), y)
    train(network, x, y, 3)
    assert not network.training
    assert nn.functional.cross_entropy(network(x), y) < before - 0.1


# ---- the published algorithm --------------------------------------------------------------------


@pytest.mark.parametrize("how", ["full", "partial"])
@pytest.mark.parametrize("build", [residual, plain])
def test_published_algorithm_plays_our_game(build: type, how: str, images: Tensor) -> None:
    network = build()
    graph = gp.trace(network, (images,))
    streams = 0
    for group in graph.groups:
        readers = readers_of(group, network)
        streams += len(readers.units) > 1
        orders = orders_of(0, 2, group.n_units)
        game = GroupGame(graph, group, as_batches((images,)), VALUE)
        found = play(network, images, readers, orders, how)
        scale = np.abs(found).max()
        assert scale > 1e-6
        np.testing.assert_allclose(found, replay(game.values, orders), atol=1e-9 * scale)
    assert streams == (2 if build is residual else 0)


def test_replaying_all_orders_gives_shapley_values() -> None:
    from itertools import permutations

    game = Closed(n_players=4)
    orders = np.array(list(permutations(range(4))))
    np.testing.assert_allclose(replay(game.values, orders), game.shapley, rtol=1e-9)


def test_first_orders_stay_the_same() -> None:
    assert (orders_of(3, 2, 7) == orders_of(3, 5, 7)[:2]).all()
    assert (orders_of(3, 2, 7) != orders_of(4, 2, 7)).any()


# ---- metrics, games and references --------------------------------------------------------------


def test_metrics() -> None:
    reference_values = np.arange(10.0)
    assert relative_error(reference_values + 2, reference_values) == pytest.approx(4 / 8.25)
    assert spearman(np.exp(reference_values), reference_values) == pytest.approx(1)
    assert spearman(-reference_values, reference_values) == pytest.approx(-1)
    assert spearman(np.ones(10), reference_values) == 0
    swapped = reference_values.copy()
    swapped[[0, 9]] = swapped[[9, 0]]
    assert overlap(swapped, reference_values) == pytest.approx(2 / 3)
    assert magnitudes(np.array([[1.0, -2.0], [-3.0, 0.0]])).tolist() == [2.0, 1.0]


def test_remembered_game_counts_once(images: Tensor) -> None:
    graph = gp.trace(plain(), (images,))
    data = as_batches((images,))
    game = RememberedGame(graph, graph.groups[0], data)
    plain_game = GroupGame(graph, graph.groups[0], data, VALUE)
    coalitions = torch.tensor([[True, False, True], [False] * 3, [True, False, True]])
    game.begin()
    expected = plain_game.values(coalitions)
    assert torch.allclose(game.values(coalitions), expected, rtol=1e-12)
    assert game.asked == 2
    before = game.seconds_each
    game.begin()
    assert torch.allclose(game.values(coalitions[1:]), expected[1:], rtol=1e-12)
    assert (game.asked, game.seconds_each) == (2, before)
    assert game.values(coalitions[:0]).shape == (0, 3)


def test_reference_is_right_and_goes_on(tmp_path: Path) -> None:
    game = Closed()
    # Antithetic orders are exact where only pairs interact.
    first = reference(game, 40, tmp_path / "a.npz")
    np.testing.assert_allclose(first.values, game.shapley.mean(0), rtol=1e-9)
    np.testing.assert_allclose(first.scores, np.abs(game.shapley).mean(0), rtol=1e-9)
    assert first.evaluations == 40
    assert first.floor < 1e-20
    asked = game.asked
    longer = reference(game, 100, tmp_path / "a.npz")
    again = reference(Closed(), 100, tmp_path / "b.npz")
    assert longer.evaluations == again.evaluations == 100
    np.testing.assert_array_equal(longer.values, again.values)
    # Six more pairs of orders, both ends of each included.
    assert game.asked - asked == 6 * 2 * 7


def test_reference_knows_its_error(tmp_path: Path) -> None:
    class Cubed(Closed):
        def values(self, coalitions: Tensor) -> Tensor:
            return super().values(coalitions) ** 3

    floors, errors = [], []
    exact = reference(Cubed(), 60_000, tmp_path / "exact.npz").values
    few = reference(Cubed(), 200, tmp_path / "few.npz")
    floors.append(few.floor)
    errors.append(relative_error(few.values, exact))
    assert 0.1 < errors[0] / floors[0] < 6


# ---- contestants --------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["captum", "shapiq"])
def test_rivals_find_the_values_of_a_closed_game(name: str) -> None:
    pytest.importorskip(name)
    game = Closed(n_players=10)

    def values(coalitions: np.ndarray) -> np.ndarray:
        assert coalitions.dtype == bool
        return game.values(torch.from_numpy(coalitions)).mean(1).numpy()

    exact = game.shapley.mean(0)
    for key, rival in rivals.installed().items():
        if key.startswith(name):
            found = rival(values, game.n_players, 400, 0)
            assert relative_error(found, exact) < 0.1, key
            np.testing.assert_array_equal(found, rival(values, game.n_players, 400, 0))


def test_our_estimators_take_part() -> None:
    everyone = {each.name: each.party for each in contestants(readers=1, rivals=False)}
    assert everyone["permutation"] == everyone["auto"] == "graphprune"
    assert everyone["published"] == "published"
    assert "exact" not in everyone


def test_auto_plays_whom_it_chooses(images: Tensor) -> None:
    graph = gp.trace(randomized(PlainNetwork((10, 4))), (images,))
    game = RememberedGame(graph, graph.groups[0], as_batches((images,)))
    by_name = {each.name: each for each in contestants(readers=10, rivals=False)}
    for budget, name in ((39, "owen"), (40, "gaussian-process")):
        assert chosen(game, 10, budget) == name
        found = by_name["auto"].run(game, budget, 3)
        same = by_name[name].run(game, budget, 3)
        np.testing.assert_array_equal(found.values, same.values)


def test_measuring(images: Tensor) -> None:
    graph = gp.trace(plain(), (images,))
    game = RememberedGame(graph, graph.groups[0], as_batches((images,)))
    told = Reference(np.arange(3.0), np.arange(3.0), 0.0, 0)

    def runs(game: GroupGame, budget: int, seed: int) -> Found:
        if budget < 6:
            raise BudgetError("too little")
        game.values(torch.tensor([[True, False, True]]))
        return Found(np.arange(3.0) + seed)

    contestant = Contestant("runs", "rival", runs)
    assert measure(contestant, game, told, 1, seeds=3) is None
    row = measure(contestant, game, told, 2, seeds=3)
    assert row is not None
    assert (row.evaluations, row.spearman, row.overlap) == (1, pytest.approx(1), 1)
    assert row.error == pytest.approx((0 + 1 + 4) / 3 / (2 / 3))
    assert row.score_error is None
    paper = as_played(replace(row, party="published"), {"full": 2.0, "partial": 0.5})
    assert [(each.name, each.seconds) for each in paper] == [(FULL, 2.0), (PARTIAL, 0.5)]
    assert as_played(row, {"full": 2.0}) == [row]


def test_large_budgets_are_left_to_the_published_algorithm() -> None:
    settings = Settings(Path(), Path(), 1, (2, 5, 20), 60, 1, 1, True, ("*",), 1)
    ours = Contestant("ours", "graphprune", lambda *_: Found(np.zeros(1)))
    assert affordable(ours, 10, settings) == [2, 5]
    assert affordable(ours, 100, settings) == [2]
    assert affordable(replace(ours, party="published"), 9, settings) == [2, 5, 20]


def test_who_takes_part() -> None:
    options = shapley.parsed(["--contestants", "auto", "p*", "--no-rivals"])
    names = [each.name for each in invited(1, shapley.settings_of(options))]
    assert names == ["permutation", "auto", "published"]


def test_auto_is_shown_with_all_whom_it_chooses(images: Tensor) -> None:
    graph = gp.trace(randomized(PlainNetwork((16, 4))), (images,))
    game = RememberedGame(graph, graph.groups[0], as_batches((images,)))
    settings = shapley.settings_of(shapley.parsed(["--budgets", "1", "2", "5", "20"]))
    assert chosen_by_budget(game, 1, settings) == ("owen", "gaussian-process-gradients")
    assert chosen_by_budget(game, 9, settings)[-1] == "gaussian-process"


# ---- verdicts and tables ------------------------------------------------------------------------


def row(name: str, budget: int, good: float, error: float = 0.1, party: str = "graphprune") -> Row:
    return Row(name, party, budget, budget * 10.0, budget * 1.0, error, 0.0, good, 0.9, None, None)


def result(kind: str = "interior") -> GroupResult:
    rows = (
        row("auto", 2, 0.96, 0.1),
        row("auto", 10, 0.99, 0.03),
        row("antithetic", 2, 0.9, 0.2),
        row("antithetic", 10, 0.99, 0.02),
        row(FULL, 2, 0.5, party="published"),
        row(FULL, 10, 0.96, party="published"),
        row(PARTIAL, 2, 0.5, party="published"),
        row(PARTIAL, 10, 0.96, party="published"),
    )
    measured = {"auto": 0.5, FULL: 11.0, PARTIAL: 2.0}
    return GroupResult(
        "net", "conv", kind, 10, "owen", 0.001, 999, {"full": 1.0}, 1e-6, rows, measured
    )


def test_who_is_good_and_what_is_timed() -> None:
    found = result()
    good = first_good(found.rows, "antithetic")
    assert good is not None
    assert good.budget == 10
    assert first_good(found.rows[:1], FULL) is None
    assert champion(found.rows) == "auto"
    assert champion([each for each in found.rows if each.name != "auto"]) == "antithetic"
    assert to_time(found) == [("auto", 2), (FULL, 10), (PARTIAL, 10)]


def test_targets() -> None:
    full, partial, small, large = targets([result()])
    assert (full.reached, full.met, full.at_least) == (22, True, False)
    assert (partial.reached, partial.met) == (4, False)
    assert (small.reached, small.met) == (pytest.approx(0.5), True)
    assert (large.reached, large.met) == (pytest.approx(1.5), False)
    assert targets([result("stream")])[0].reached == 5
    assert targets([result("stream")])[0].met


def test_rivals_that_are_never_good_give_a_bound() -> None:
    found = result("stream")
    bad = [replace(each, spearman=0.5) if each.name == FULL else each for each in found.rows]
    target = targets([replace(found, rows=tuple(bad))])[0]
    assert (target.reached, target.at_least, target.met) == (5, True, True)


def test_bounds_below_the_target_leave_it_open() -> None:
    found = result()
    bad = [replace(each, spearman=0.5) if each.name == PARTIAL else each for each in found.rows]
    target = targets([replace(found, rows=tuple(bad))])[1]
    assert (target.reached, target.at_least, target.met) == (4, True, None)


def test_ours_never_good_is_not_met() -> None:
    found = result()
    rows = tuple(replace(each, spearman=0.5) for each in found.rows)
    assert [target.met for target in targets([replace(found, rows=rows)])][:2] == [False, False]


def test_tables(capsys: pytest.CaptureFixture[str]) -> None:
    shown = tables([result()])
    text = markdown(shown)
    assert "| auto (owen) | 0.1 · 0.96 · 90% | 0.03 · 0.99 · 90% |" in text
    assert f"| {FULL} | 100 | 10 | 10.00 (measured 11.00) | 90% | - | - |" in text
    assert "| 20 | 22 | met |" in text
    assert "| 5 | 4 | not met |" in text
    show(shown)
    assert "not met" in capsys.readouterr().out


# ---- the command --------------------------------------------------------------------------------


def test_results_are_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "shapley.json"
    options = shapley.parsed(["--out", str(out), "--table", "--markdown"])
    shapley.write(out, [result()], options)
    assert json.loads(out.read_text())["format"] == "graphprune-shapley-benchmark/1"
    assert shapley.read(out) == [result()]
    assert shapley.main(["--out", str(out), "--table", "--markdown"]) == 0
    assert "| 20 | 22 | met |" in capsys.readouterr().out


def test_folder_without_models_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shapley.main(["--shared", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_default_games_are_chosen() -> None:
    options = shapley.parsed(["--networks", "resnet20", "--quick"])
    assert [name for name, _ in shapley.chosen(options)] == ["resnet20", "resnet20"]
