"""Functions of the user's own as value or criterion, in Python and on the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import graphprune as gp
from graphprune.checkpoint import StateStore
from graphprune.criteria import RankRequest, Scored, base, needs_data, rank
from graphprune.data import synthetic
from graphprune.errors import ArtifactError, BudgetError, DataError, OptionError
from graphprune.game.value import minus_kl
from graphprune.graph import DependencyGraph, trace
from tests.cli.conftest import FACTORY
from tests.helpers import batch_of
from tests.networks import NETWORKS
from tests.traced import traced

LABELS = torch.tensor([0, 4, 2, 1, 1])


@pytest.fixture(scope="module")
def graph() -> DependencyGraph:
    return traced("Residual")


@pytest.fixture(scope="module")
def images(graph: DependencyGraph) -> Tensor:
    (x,) = batch_of(graph.example_inputs, 5, 0)
    return x


def divergence(outputs: Tensor, reference: Tensor, labels: Tensor | None) -> Tensor:
    """``kl`` in other words."""
    expected, found = reference.softmax(-1), outputs.log_softmax(-1)
    return (expected * (found - expected.log())).sum(-1).mean(1)


def margin(outputs: Tensor, reference: Tensor, labels: Tensor | None) -> Tensor:
    """How far the label's output is above the best other one."""
    mean = outputs.mean(1)
    others = mean.scatter(1, labels[:, None], -torch.inf).amax(1)
    return mean.gather(1, labels[:, None]).squeeze(1) - others


def agreement(outputs: Tensor, reference: Tensor, labels: Tensor | None) -> Tensor:
    return outputs.mean(1).argmax(-1) == reference.mean(1).argmax(-1)


# ---- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", ["leave-one-out", "shapley-paper"])
def test_a_value_is_played_as_the_one_that_it_spells_out(
    criterion: str, graph: DependencyGraph, images: Tensor
) -> None:
    own = gp.rank(graph, (images,), criterion, value=divergence)
    built_in = gp.rank(graph, (images,), criterion, value="kl")
    np.testing.assert_allclose(own.scores, built_in.scores, rtol=1e-9, atol=1e-12)
    assert own.value == f"{__name__}.divergence"
    assert (own.game, own.estimator, own.aggregate) == (
        built_in.game,
        built_in.estimator,
        built_in.aggregate,
    )


def test_gate_gradients_are_those_of_the_function() -> None:
    """Where network and value are linear, every marginal on an image is what the unit passes on.

    So nothing in other units, such as Fisher information, is added to the slope.
    """
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Linear(6, 3)).double()
    x = torch.randn(1, 4, dtype=torch.float64)
    linear = trace(model, (x.expand(2, 4),))
    passed_on = (model[0](x) * model[1].weight[1]).abs().squeeze(0).detach().numpy()
    for factor in (1.0, -3.0):

        def second(outputs: Tensor, reference: Tensor, labels: Tensor | None) -> Tensor:
            return factor * outputs[:, 0, 1]  # noqa: B023 - called in this round

        found = gp.rank(linear, x, value=second)
        assert (found.game, found.estimator) == ("network", "gradients")
        np.testing.assert_allclose(found.scores, abs(factor) * passed_on, rtol=1e-9)


@pytest.mark.parametrize(
    "function",
    [
        agreement,
        lambda outputs, reference, labels: outputs.detach().mean((1, 2)),
        lambda outputs, reference, labels: torch.from_numpy(outputs.numpy().mean((1, 2))),
        lambda outputs, reference, labels: outputs.round().sum((1, 2)),
    ],
)
def test_values_without_a_slope_play_group_games(
    function: Any, graph: DependencyGraph, images: Tensor
) -> None:
    assert gp.rank(graph, (images,), value=function).game == "group"
    with pytest.raises(OptionError, match="changes in steps, so it has no gate gradients") as error:
        gp.rank(graph, (images,), value=function, estimator="gradients", game="network")
    assert "--game group" in str(error.value)


def test_values_that_tolerate_small_changes_have_a_slope(
    graph: DependencyGraph, images: Tensor
) -> None:
    def tolerant(outputs: Tensor, reference: Tensor, labels: Tensor | None) -> Tensor:
        return -(minus_kl(outputs, reference, labels).neg() - 0.05).relu()

    assert gp.rank(graph, (images,), value=tolerant).game == "network"


def test_objects_and_partial_functions_have_names(graph: DependencyGraph, images: Tensor) -> None:
    class Scaled:
        def __call__(self, outputs: Tensor, reference: Tensor, labels: Tensor | None) -> Tensor:
            return 2 * minus_kl(outputs, reference, labels)

    found = gp.rank(graph, (images,), "leave-one-out", value=Scaled())
    assert found.value is not None
    assert found.value.endswith("Scaled")
    assert gp.rank(graph, (images,), value=partial(divergence)).value == f"{__name__}.divergence"


def test_a_function_may_change_what_it_is_given(graph: DependencyGraph, images: Tensor) -> None:
    def spoiling(outputs: Tensor, reference: Tensor, labels: Tensor | None) -> Tensor:
        found = margin(outputs, reference, labels.clone())
        with torch.no_grad():
            outputs.zero_()
            reference.zero_()
            labels.zero_()
        return found

    clean, spoilt = (
        gp.rank(graph, (images, LABELS), "leave-one-out", value=function).scores
        for function in (margin, spoiling)
    )
    np.testing.assert_array_equal(clean, spoilt)


def returning(found: Any) -> Any:
    return lambda outputs, reference, labels: found(outputs) if callable(found) else found


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (returning(0.5), "returned an object of type float, not a tensor of one number per image"),
        (returning(None), "returned nothing, not a tensor"),
        (returning(lambda x: x.numpy(force=True)), "an object of type ndarray"),
        (returning(lambda x: x.mean()), r"returned a tensor of shape \(\), not a tensor .* \(2,\)"),
        (returning(lambda x: x[:, 0]), r"returned a tensor of shape \(2, 5\)"),
        (returning(lambda x: x[:, 0, 0] + 1j), "returned complex numbers"),
        (returning(lambda x: x[:, 0, 0] / 0 * 0), "returned a number that is not finite"),
        (returning(lambda x: x[:, 0, 0] - x.mean()), "gives one image .* alone and .* among"),
        (returning(lambda x: x[:, 0, 0] + torch.rand(len(x))), "gives one image .* alone"),
        (
            returning(lambda x: x[:, 0, 7]),
            r"failed at line \d+ of test_functions.py: IndexError: index 7",
        ),
        (lambda outputs: outputs[:, 0, 0], r"failed: TypeError: .* takes 1 positional argument"),
        (margin, r"(?s)failed at line \d+ .*TypeError.*it was given outputs .* and no labels"),
        (3, "3 is a int, neither a name nor a function"),
    ],
)
def test_values_that_cannot_be_used(
    function: Any, says: str, graph: DependencyGraph, images: Tensor
) -> None:
    steps: list[str] = []
    with pytest.raises(OptionError, match=says) as error:
        gp.rank(graph, (images,), value=function, progress=lambda *step: steps.append(step[0]))
    assert error.value.hint
    assert not steps, "found out before the long work"


def test_a_value_that_fails_on_a_coalition_only(graph: DependencyGraph, images: Tensor) -> None:
    """The reciprocal of a distance to another output than the unpruned network's."""

    def fussy(outputs: Tensor, reference: Tensor, labels: Tensor | None) -> Tensor:
        worth = minus_kl(outputs, reference, labels)
        return torch.where(worth < -1e-12, worth / 0, worth)

    with pytest.raises(OptionError, match=r"'.*fussy' returned a number that is not finite"):
        gp.rank(graph, (images,), "leave-one-out", value=fussy)


def test_outputs_that_may_shrink_are_refused(images: Tensor) -> None:
    shrinking = trace(NETWORKS["Residual"].make(), (images,), unpin_outputs=("*",))
    for criterion in ("shapley", "leave-one-out"):
        with pytest.raises(OptionError, match="is not told which classes are gone"):
            gp.rank(shrinking, (images,), criterion, value=divergence)


def test_errors_of_this_package_pass(graph: DependencyGraph, images: Tensor) -> None:
    def poor(outputs: Tensor, reference: Tensor, labels: Tensor | None) -> Tensor:
        raise DataError("labels are wanted", hint="give some")

    with pytest.raises(DataError, match="labels are wanted"):
        gp.rank(graph, (images,), value=poor)


# ---- criteria -----------------------------------------------------------------------------------


def counting(request: RankRequest) -> Tensor:
    return torch.arange(request.graph.n_units)


def test_a_criterion_gives_scores(graph: DependencyGraph, images: Tensor) -> None:
    found = gp.rank(graph, (images,), criterion=counting)
    assert found.scores.tolist() == list(range(graph.n_units))
    assert (found.criterion, found.n_images) == (f"{__name__}.counting", 5)
    assert gp.rank(graph, criterion=counting).n_images == 32  # synthetic


def test_a_criterion_is_asked_as_the_others_are(graph: DependencyGraph, images: Tensor) -> None:
    asked: list[RankRequest] = []

    def curious(request: RankRequest) -> Scored:
        asked.append(request)
        scores = np.ones(request.graph.n_units)
        return Scored(scores=scores, stderr=scores / 2, evaluations=3, value=request.value)

    found = gp.rank(graph, (images.float(),), curious, 7, value=divergence, budget=3)
    (request,) = asked
    assert (request.seed, request.budget) == (7, 3)
    assert request.images.batches[0].inputs[0].dtype == torch.float64  # fitted to the network
    assert found.groups[0].stderr.tolist() == [0.5] * 8
    assert (found.evaluations, found.value) == (3, f"{__name__}.divergence")


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (np.ones(3), r"returned scores of shape \(3,\); the network has 14 units, so \(14,\)"),
        (torch.ones(14, 1), r"returned scores of shape \(14, 1\)"),
        (Scored(scores=np.ones(14), stderr=np.ones(2)), r"returned scores of shape \(2,\)"),
        (np.full(14, np.nan), "returned scores that are not finite"),
        (torch.full((14,), torch.inf), "returned scores that are not finite"),
        (Scored(scores=np.ones(14), stderr=np.full(14, np.nan)), "scores that are not finite"),
        ([1.0] * 14, "returned an object of type list"),
        (np.array(["a"] * 14), "returned an object of type ndarray"),
        (None, "returned an object of type NoneType"),
    ],
)
def test_criteria_that_cannot_be_used(found: Any, says: str, graph: DependencyGraph) -> None:
    with pytest.raises(OptionError, match=says) as error:
        gp.rank(graph, criterion=lambda request: found)
    assert "criterion 'tests.criteria.test_functions." in str(error.value)
    assert error.value.hint


def test_a_criterion_that_fails(graph: DependencyGraph) -> None:
    with pytest.raises(OptionError, match=r"failed.*ZeroDivisionError"):
        gp.rank(graph, criterion=lambda request: 1 / 0)

    def spent(request: RankRequest) -> Scored:
        raise BudgetError("too little")

    with pytest.raises(BudgetError, match="too little"):
        gp.rank(graph, criterion=spent)


# ---- by name ------------------------------------------------------------------------------------

OWN = """
import graphprune
import numpy as np
import torch
from graphprune.criteria import Scored, criterion

from neighbour import FACTOR


def margin(outputs, reference, labels):
    import late  # a neighbour, while it runs
    best = outputs.mean(1).topk(2).values
    return FACTOR * (best[:, 0] - best[:, 1])


class Agreement:
    def __call__(self, outputs, reference, labels):
        return outputs.mean(1).argmax(1) == labels


def ascending(request):
    return np.arange(request.graph.n_units)


@criterion("own-descending", needs_data=False)
def descending(request):
    return Scored(scores=-np.arange(request.graph.n_units, dtype=float))


def broken(outputs, reference, labels):
    return outputs


def short(request):
    return np.ones(2)


NUMBER = 3
"""


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.py").write_text(FACTORY)
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "neighbour.py").write_text("FACTOR = 2.0\n")
    (tmp_path / "late.py").write_text("")
    generator = np.random.default_rng(0)
    images = generator.standard_normal((8, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "images.npz", x=images, y=generator.integers(0, 5, 8))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(base, "_CRITERIA", dict(base._CRITERIA))
    for name in ("neighbour", "late", "own"):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "graphprune_cli", *arguments, "--quiet"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "300"},
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done


MODEL = ("net.py:net", "--input-shape", "3,8,8")
DATA = ("--data", "images.npz")


def test_a_value_from_rank_to_prune(workplace: Path) -> None:
    done = command(workplace, "rank", *MODEL, *DATA, "--value", "own.py:margin", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["value"], document["game"]) == ("own.py:margin", "network")
    recorded = json.loads((workplace / "graphprune-out/ranking.json").read_text())
    assert (recorded["criterion"], recorded["value"]) == ("shapley", "own.py:margin")
    # What is recorded is enough: the function is not asked again.
    (workplace / "own.py").unlink()
    done = command(workplace, "prune", "--ratio", "0.3")
    assert done.returncode == 0, done.stderr
    assert command(workplace, "validate").returncode == 0


def test_a_criterion_from_rank_to_prune(workplace: Path) -> None:
    done = command(workplace, "rank", *MODEL, "--criterion", "own.py:ascending", "--json")
    assert done.returncode == 0, done.stderr
    scores = [score for group in json.loads(done.stdout)["groups"] for score in group["scores"]]
    assert scores == sorted(scores) == list(range(len(scores)))
    recorded = json.loads((workplace / "graphprune-out/ranking.json").read_text())
    assert (recorded["criterion"], recorded["n_images"]) == ("own.py:ascending", 32)
    (workplace / "own.py").unlink()
    done = command(workplace, "prune", "--ratio", "0.3")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((workplace / "graphprune-out/manifest.json").read_text())
    assert manifest["validation"]["ok"]


def test_a_registered_criterion_in_a_file(workplace: Path) -> None:
    for arguments in (("rank", *MODEL), ("prune", *MODEL, "--ratio", "0.3")):
        done = command(workplace, *arguments, "--criterion", "own.py:descending")
        assert done.returncode == 0, done.stderr
    recorded = json.loads((workplace / "graphprune-out/ranking.json").read_text())
    assert (recorded["criterion"], recorded["n_images"]) == ("own.py:descending", 0)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (("--value", "own.py:broken"), "value 'own.py:broken' returned a tensor of shape (2, 1, 5"),
        (("--criterion", "own.py:short"), "'own.py:short' returned scores of shape (2,)"),
    ],
)
def test_errors_are_one_sentence(option: tuple[str, str], says: str, workplace: Path) -> None:
    done = command(workplace, "rank", *MODEL, *DATA, *option)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
    assert "hint: " in done.stderr
    assert not (workplace / "graphprune-out/ranking.json").exists()


@pytest.fixture
def small(workplace: Path) -> DependencyGraph:
    return traced("Residual")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"value": "own.py:margins"}, r"(?s)the module has no margins.*did you mean margin"),
        ({"value": "other.py:margin"}, "there is no file other.py"),
        ({"value": "no_such_module:margin"}, "importing no_such_module .* ModuleNotFoundError"),
        ({"value": "own.py:NUMBER"}, "own.py:NUMBER is a int, which cannot be called"),
        ({"value": "own.py"}, r"(?s)value 'own.py' is none of kl.*path/file.py:function"),
        ({"criterion": "own.py:ascend"}, r"(?s)no ascend.*did you mean ascending"),
        ({"criterion": "own.py"}, "criterion 'own.py' is none of"),
        ({"criterion": "torch-pruning:Magic"}, "criterion 'torch-pruning:Magic' is none of"),
    ],
)
def test_names_of_nothing(options: dict[str, str], says: str, small: DependencyGraph) -> None:
    with pytest.raises(OptionError, match=says):
        gp.rank(small, **options)


def test_a_file_is_run_once_and_again_when_it_changes(
    small: DependencyGraph, workplace: Path
) -> None:
    assert not needs_data("own.py:descending")
    first = gp.rank(small, criterion="own.py:descending")  # a second run would register twice
    assert first.scores.tolist() == [-k for k in range(small.n_units)]
    own = workplace / "own.py"
    own.write_text(
        OWN.replace("own-desc", "own-desc-2").replace("Scored(scores=-", "Scored(scores=")
    )
    assert (gp.rank(small, criterion="own.py:descending").scores >= 0).all()


def test_packages_and_classes_can_be_named(
    small: DependencyGraph, images: Tensor, workplace: Path
) -> None:
    assert gp.rank(small, criterion="own:ascending").criterion == "own:ascending"
    (workplace / "judge.py").write_text(OWN.replace("own-desc", "own-desc-4"))
    found = gp.rank(small, (images, LABELS), value="judge.py:Agreement")
    assert (found.value, found.game) == ("judge.py:Agreement", "group")


# ---- resume -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"value": "own.py:margin"}, "the value's source has changed since"),
        ({"criterion": "own.py:resumable"}, "the criterion's source has changed since"),
    ],
)
def test_a_changed_function_is_not_taken_up(
    option: dict[str, str], says: str, small: DependencyGraph, workplace: Path
) -> None:
    own, state = workplace / "own.py", workplace / "rank-state.npz"
    text = OWN + (
        "def resumable(request):\n"
        "    request.checkpoint.part('all').finish({'done': np.array(1)})\n"
        "    return np.ones(request.graph.n_units)\n"
    )
    own.write_text(text)
    data = synthetic(((3, 8, 8),), n_images=5, dtype=torch.float64, seed=0)

    def ranked(*, resume: bool) -> np.ndarray:
        store = StateStore(path=state, model="hash", resume=resume, every=0)
        return rank(small, data, store=store, **option).scores

    first = ranked(resume=False)
    assert state.exists()
    np.testing.assert_array_equal(first, ranked(resume=True))
    own.write_text(text.replace("own-desc", "own-desc-3") + "# changed\n")
    with pytest.raises(ArtifactError, match=says):
        ranked(resume=True)
