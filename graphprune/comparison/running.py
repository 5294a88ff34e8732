"""Running a comparison: rank, cut, repair and judge, one criterion and seed after the other."""

from __future__ import annotations

import time
from dataclasses import replace

from graphprune import criteria
from graphprune.building import Repairing, build
from graphprune.comparison.contestants import Contestant
from graphprune.comparison.images import Images, arrange
from graphprune.comparison.keeping import InMemory, Store
from graphprune.comparison.oracle import Oracle, removal_sizes
from graphprune.comparison.questions import (
    CompareOptions,
    Conditions,
    Questions,
    conditions_of,
    questions_of,
)
from graphprune.comparison.records import (
    Cell,
    Comparison,
    Trial,
    cell_of,
    oracle_row,
    ordered,
    robustness_row,
)
from graphprune.comparison.robustness import IMAGES, layerwise_robustness
from graphprune.criteria.images import fitting_images
from graphprune.data import CalibrationBatches
from graphprune.errors import ArtifactError, BudgetError, DataError, OptionError
from graphprune.fidelity import Judge
from graphprune.game.evaluation import DEFAULT, Running
from graphprune.graph import DependencyGraph
from graphprune.progress import Progress, silent
from graphprune.ranking import Ranking
from graphprune.selection import Budget, PruningPlan
from graphprune.steps import Trading, exchange_if, select_once, weigh_if


def compare(
    graph: DependencyGraph,
    data: CalibrationBatches,
    judging: CalibrationBatches | None,
    options: CompareOptions,
    *,
    running: Running = DEFAULT,
    store: Store | None = None,
    progress: Progress = silent,
) -> Comparison:
    """Compare criteria as a user asks for it.

    Args:
        graph: The network.
        data: Images that rank and repair, and judge where no others do.
        judging: Images that judge.
        options: What is asked.
        running: How and where networks are run.
        store: Where rankings and rows are kept while the comparison runs.
        progress: Told about every step.

    Raises:
        OptionError: An option is not one of those allowed.
        DataError: There are too few images, or they do not fit.
        ArtifactError: The store holds another comparison.
    """
    images, questions, conditions = settled(graph, data, judging, options, running)
    return run_comparison(
        graph, images, questions, conditions, running=running, store=store, progress=progress
    )


def settled(
    graph: DependencyGraph,
    data: CalibrationBatches,
    judging: CalibrationBatches | None,
    options: CompareOptions,
    running: Running,
) -> tuple[Images, Questions, Conditions]:
    """Return what :func:`run_comparison` takes, all of it checked.

    Raises:
        OptionError: An option is not one of those allowed.
        DataError: There are too few images.
    """
    questions = questions_of(graph, options)
    images = arrange(
        data,
        judging,
        n_drawn=options.calibration,
        labels=options.labels,
        seed=options.image_seed,
    )
    return images, questions, conditions_of(graph, images, options, running)


def run_comparison(
    graph: DependencyGraph,
    images: Images,
    questions: Questions,
    conditions: Conditions,
    *,
    running: Running = DEFAULT,
    store: Store | None = None,
    progress: Progress = silent,
) -> Comparison:
    """Compare criteria.

    A criterion that cannot rank this network, and a ratio that it cannot reach, are left out and
    noted; the others go on.

    Args:
        graph: The network.
        images: What ranks, repairs and judges.
        questions: What is asked.
        conditions: What every figure depends on.
        running: How and where networks are run.
        store: Where rankings and rows are kept while the comparison runs.
        progress: Told about every step; an exception that it raises ends the work.

    Raises:
        OptionError: No criterion can rank this network.
        BudgetError: No ratio can be reached.
        ArtifactError: The store holds another comparison.
    """
    judging = fitting_images(graph, images.judging, 0, needed=True)
    assert judging is not None
    images = replace(images, judging=judging)
    judge = Judge(graph, judging)
    fresh = Comparison(conditions=conditions, unpruned=judge.unpruned(), notes=images.notes)
    kept = InMemory() if store is None else store
    found = kept.begin(fresh)
    run = _Run(graph, images, questions, running, kept, progress, judge, found)
    run.prune()
    run.draw_curves()
    run.consult_the_oracle()
    return run.finish()


class _Run:
    """The work of one comparison; every row is saved when it is found."""

    def __init__(
        self,
        graph: DependencyGraph,
        images: Images,
        questions: Questions,
        running: Running,
        store: Store,
        progress: Progress,
        judge: Judge,
        found: Comparison,
    ) -> None:
        self._graph = graph
        self._images = images
        self._questions = questions
        self._running = running
        self._store = store
        self._progress = progress
        self._judge = judge
        self._found = found
        self._failures: list[OptionError | DataError | BudgetError] = []
        self._rankings: dict[tuple[str, int], Ranking] = {}
        self._cells = {_key(cell) for cell in found.cells}
        self._done = 0

    # ---- accuracy against ratio ----------------------------------------------------------------

    def prune(self) -> None:
        """Find all cells that are missing.

        Raises:
            OptionError: No criterion can rank this network.
            DataError: None can with these images.
            BudgetError: No ratio can be reached.
        """
        for contestant in self._questions.contestants:
            try:
                for seed in self._questions.seeds:
                    self._prune_with(contestant, seed)
            except (OptionError, DataError, BudgetError) as error:
                self._failures.append(error)
                self._note(f"{contestant.label} is left out: {error.message}")
        if self._failures and not self._found.cells:
            raise self._failures[0]

    def _prune_with(self, contestant: Contestant, seed: int) -> None:
        trial = self._trial(contestant, seed)
        for ratio in self._questions.ratios:
            try:
                found = self._prune_to(trial, ratio)
            except BudgetError as error:
                found = True
                self._failures.append(error)
                self._note(f"{contestant.label}: {error.message}")
            self._done += 1
            if found:
                text = f"{contestant.label}, seed {seed}: pruned"
                self._progress(text, self._done, self._total)

    def _prune_to(self, trial: Trial, ratio: float) -> bool:
        """Find the cells of one ratio that are missing; return whether there were any."""
        missing = [
            method
            for method in self._questions.repairs
            if (trial.criterion, trial.seed, method, ratio) not in self._cells
        ]
        for method in missing:
            self._add(self._cell(trial, ratio, method))
        return bool(missing)

    def _cell(self, trial: Trial, ratio: float, method: str) -> Cell:
        repairing = Repairing(method=method, seed=trial.seed, max_memory=self._running.max_memory)
        plan = self._plan(trial, ratio, repairing)
        kept = plan.kept(self._graph)
        start = time.perf_counter()
        repaired = build(self._graph, kept, self._images.drawn(trial.seed), repairing)
        seconds = time.perf_counter() - start
        fidelity = self._judge.judge(repaired.model, kept)
        return cell_of(trial, (method, repaired.method), plan, fidelity, seconds)

    def _plan(self, trial: Trial, ratio: float, repairing: Repairing) -> PruningPlan:
        """Select as ``prune`` does: by scores that look ahead, and units trade places."""
        asked, ranking = self._found.conditions, self._ranking(trial)
        budget = Budget(
            ratio=ratio,
            of=asked.of,
            scope=asked.scope,
            min_units=asked.min_units,
            round_to=asked.round_to,
        )
        trading = Trading(
            wanted=None if self._contestant(trial).exchange else False,
            repair=repairing.method,
            running=self._running,
            seed=trial.seed,
        )
        images = self._images.drawn(trial.seed)
        found = weigh_if(select_once(ranking, budget), images, budget, repairing)
        return exchange_if(trading, found, images, budget).plan

    def _add(self, cell: Cell) -> None:
        self._cells.add(_key(cell))
        self._save(replace(self._found, cells=(*self._found.cells, cell)))

    # ---- rankings ------------------------------------------------------------------------------

    def _trial(self, contestant: Contestant, seed: int) -> Trial:
        """Return how a criterion ranked with a seed; it ranks now if it has not yet."""
        for trial in self._found.trials:
            if (trial.criterion, trial.seed) == (contestant.label, seed):
                _check_source(trial, contestant)
                return trial
        return self._ranked(contestant, seed)

    def _ranked(self, contestant: Contestant, seed: int) -> Trial:
        start = time.perf_counter()
        ranking = self._rank(contestant, seed)
        trial = self._store.keep(
            Trial(
                criterion=contestant.label,
                seed=seed,
                seconds=round(time.perf_counter() - start, 3),
                evaluations=ranking.evaluations,
                notes=ranking.notes,
                source=contestant.source,
            ),
            ranking,
        )
        self._rankings[trial.criterion, seed] = ranking
        others = [t for t in self._found.trials if (t.criterion, t.seed) != (trial.criterion, seed)]
        self._save(replace(self._found, trials=(*others, trial)))
        return trial

    def _rank(self, contestant: Contestant, seed: int) -> Ranking:
        def step(stage: str, done: int, total: int) -> None:
            text = f"{contestant.label}, seed {seed}: {stage} {done}/{total}"
            self._progress(text, self._done, self._total)

        protected = self._found.conditions.protected
        ranking = criteria.rank(
            self._graph,
            self._images.drawn(seed),
            criterion=contestant.criterion,
            game=contestant.game,
            estimator=contestant.estimator,
            value=contestant.value,
            aggregate=contestant.aggregate,
            semivalue=contestant.semivalue,
            budget=contestant.budget,
            for_ratio=contestant.for_ratio,
            for_repair=contestant.for_repair,
            seed=seed,
            running=self._running,
            progress=step,
        )
        return replace(ranking, protected=tuple(dict.fromkeys([*ranking.protected, *protected])))

    def _ranking(self, trial: Trial) -> Ranking:
        """Return a trial's ranking; one that the store has lost is made again."""
        key = trial.criterion, trial.seed
        if key not in self._rankings:
            found = self._store.ranking(trial, self._graph)
            if found is None:
                self._ranked(self._contestant(trial), trial.seed)
            else:
                self._rankings[key] = found
        return self._rankings[key]

    def _contestant(self, trial: Trial) -> Contestant:
        return {each.label: each for each in self._questions.contestants}[trial.criterion]

    def _asked(self) -> list[Trial]:
        """Return the trials of what is asked now, not those of earlier runs."""
        labels = {each.label for each in self._questions.contestants}
        return [
            trial
            for trial in self._found.trials
            if trial.criterion in labels and trial.seed in self._questions.seeds
        ]

    # ---- layerwise robustness ------------------------------------------------------------------

    def draw_curves(self) -> None:
        """Find all robustness rows that are missing, one criterion after the other."""
        if not self._questions.robustness:
            return
        known = {(row.criterion, row.seed) for row in self._found.robustness}
        for contestant in self._questions.contestants:
            missing = [
                trial
                for trial in self._asked()
                if trial.criterion == contestant.label
                and (trial.criterion, trial.seed) not in known
            ]
            if missing:
                self._draw(missing)

    def _draw(self, trials: list[Trial]) -> None:
        def step(stage: str, done: int, total: int) -> None:
            self._progress(f"{trials[0].criterion}: {stage}", done, total)

        found = layerwise_robustness(
            self._graph,
            self._images.judging.head(IMAGES),
            [self._ranking(trial).scores for trial in trials],
            points=self._questions.points,
            running=self._running,
            progress=step,
        )
        rows = map(robustness_row, trials, found)
        self._save(replace(self._found, robustness=(*self._found.robustness, *rows)))

    # ---- oracle --------------------------------------------------------------------------------

    def consult_the_oracle(self) -> None:
        """Place all removed sets that are not placed yet."""
        for name in self._questions.oracle:
            group = self._graph.group(name)
            sizes = removal_sizes(group, self._questions.ratios)
            missing = {size: trials for size in sizes if (trials := self._unplaced(name, size))}
            if not missing:
                continue
            oracle = Oracle(
                self._graph,
                group,
                self._images.judging,
                sets=self._questions.sets,
                seed=self._found.conditions.image_seed,
                running=self._running,
            )
            for size, trials in missing.items():
                self._place(oracle, size, trials)

    def _unplaced(self, group: str, removed: int) -> list[Trial]:
        known = {
            (row.criterion, row.seed)
            for row in self._found.oracle
            if (row.group, row.removed) == (group, removed)
        }
        return [t for t in self._asked() if (t.criterion, t.seed) not in known]

    def _place(self, oracle: Oracle, removed: int, trials: list[Trial]) -> None:
        found, name = self._found, oracle.group.name
        same = [s for s in found.sets if (s.group, s.removed) == (name, removed)]
        sets = same[0] if same else oracle.sets_of(removed, self._progress)
        places = oracle.rank([self._ranking(trial).scores for trial in trials], sets)
        rows = map(oracle_row, trials, places)
        listed = found.sets if same else (*found.sets, sets)
        self._save(replace(self._found, sets=listed, oracle=(*self._found.oracle, *rows)))

    # ---- what is kept --------------------------------------------------------------------------

    def finish(self) -> Comparison:
        """Return everything, in order."""
        self._save(replace(self._found, complete=True))
        return self._found

    def _save(self, found: Comparison) -> None:
        self._found = ordered(found, self._questions)
        self._store.save(self._found)

    def _note(self, text: str) -> None:
        if text not in self._found.notes:
            self._save(replace(self._found, notes=(*self._found.notes, text)))

    @property
    def _total(self) -> int:
        asked = self._questions
        return len(asked.contestants) * len(asked.seeds) * len(asked.ratios)


def _check_source(trial: Trial, contestant: Contestant) -> None:
    """Refuse to go on with another criterion under the same name.

    Raises:
        ArtifactError: The files that define it have changed.
    """
    if trial.source != contestant.source:
        raise ArtifactError(
            f"the files of criterion {contestant.label!r} have changed since",
            hint="start anew, without --resume",
        )


def _key(cell: Cell) -> tuple[str, int, str, float]:
    return cell.criterion, cell.seed, cell.repair, cell.asked
