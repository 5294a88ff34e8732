"""Ranks compute rows together, agree, and end together."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest
import torch

from graphprune import distributed
from graphprune.distributed import ALONE, Ranks, connected, terminable
from graphprune.errors import OptionError, RankLostError
from tests.distributed.launching import start_program
from tests.distributed.program import ROWS, STAGES

Reports = list[dict[str, Any]]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Reports:
    """What every rank saw, by stage."""
    processes = start_program(tmp_path_factory.mktemp("ranks"))
    try:
        outputs = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    codes = [process.returncode for process in processes]
    assert codes == [0, 9, 0], "\n".join(stderr for _, stderr in outputs)
    lines = [[json.loads(line) for line in stdout.splitlines()] for stdout, _ in outputs]
    return [{line["stage"]: line for line in of_rank} for of_rank in lines]


def seen(reports: Reports, stage: str, size: int = 3) -> list[Any]:
    return [report[stage]["seen"] for report in reports[:size] if stage in report]


@pytest.mark.parametrize(("stage", "size"), [("two", 2), ("gather", 3)])
@pytest.mark.parametrize("rows", ROWS)
def test_rows_are_those_of_one_rank(reports: Reports, rows: str, stage: str, size: int) -> None:
    found = [of_rank[rows] for of_rank in seen(reports, stage)]
    assert len(found) == size
    assert all(of_rank["same"] for of_rank in found)
    asked = [of_rank["asked"] for of_rank in found]
    assert [row for share in asked for row in share] == list(range(ROWS[rows][0]))
    assert max(map(len, asked)) - min(map(len, asked)) <= 1


def test_the_leading_rank_decides(reports: Reports) -> None:
    found = seen(reports, "agree")
    assert [of_rank["agreed"] for of_rank in found] == [{"rank": 0}] * 3
    assert [of_rank["led"] for of_rank in found] == ["of rank 0"] * 3
    assert [of_rank["calls"] for of_rank in found] == [[0], [], []]
    assert [of_rank["refused"] for of_rank in found] == [
        ["DataError", "no good", "give better"]
    ] * 3


def test_what_differs_is_named_on_all_ranks(reports: Reports) -> None:
    for of_rank in seen(reports, "agree"):
        kind, message, hint = of_rank["differs"]
        assert kind == "OptionError"
        assert message == "the model of rank 1 differs from that of rank 0"
        assert "same command" in hint


def test_the_leading_rank_keeps_the_state(reports: Reports) -> None:
    found = seen(reports, "state")
    assert all(of_rank["before"] for of_rank in found)
    assert [of_rank["after"] for of_rank in found] == [[0.0, 1.0, 2.0]] * 3
    assert [of_rank["written"] for of_rank in found] == [True, False, False]
    assert all(of_rank["cleared"] for of_rank in found)
    for name, reason in (("other data", "data have changed"), ("damaged", "is damaged")):
        errors = [of_rank[name] for of_rank in found]
        assert errors[0][0] == "ArtifactError"
        assert reason in errors[0][1]
        assert errors == errors[:1] * 3
    assert [of_rank["differs"][0] for of_rank in found] == ["OptionError"] * 3


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("refused", ["DataError", "no good", "give better"]),
        ("interrupted", ["KeyboardInterrupt", "", None]),
    ],
)
def test_an_error_of_one_rank_is_that_of_all(
    reports: Reports, stage: str, expected: list[str | None]
) -> None:
    assert seen(reports, stage) == [expected] * 3


def test_a_rank_that_breaks_is_a_lost_rank_to_the_others(reports: Reports) -> None:
    first, broken, third = seen(reports, "exhausted")
    assert broken[0] == "MemoryError"
    assert first == third
    assert first[:2] == ["RankLostError", "rank 1 failed: MemoryError: "]
    assert "--resume" in first[2]


@pytest.mark.parametrize(("stage", "left"), [("terminated", 3), ("lost", 2)])
def test_the_others_end_when_a_rank_is_gone(reports: Reports, stage: str, left: int) -> None:
    found = seen(reports, stage)
    assert len(found) == left
    for kind, message, hint in found:
        assert kind == "RankLostError"
        assert "another rank was lost" in message
        assert "--resume" in hint
    # Far less than the minute that ranks wait for an answer.
    assert all(report[stage]["seconds"] < 20 for report in reports if stage in report)


@pytest.mark.parametrize("stage", ["refused", "exhausted", "interrupted", "terminated", "lost"])
def test_one_rank_speaks(reports: Reports, stage: str) -> None:
    spoke = [report[stage]["spoke"] for report in reports if stage in report]
    assert spoke == [True] + [False] * (len(spoke) - 1)


def test_the_stages_are_all_run(reports: Reports) -> None:
    assert list(reports[0]) == list(STAGES)


# ---- without torchrun ---------------------------------------------------------------------------


def test_one_rank_computes_all_rows_itself() -> None:
    rows = torch.randn(5, 2)
    assert ALONE.gather(5, lambda share: rows[share.start : share.stop]).equal(rows)
    assert (ALONE.agree(3), ALONE.led(lambda: 4), ALONE.leads, ALONE.speaks()) == (3, 4, True, True)
    ALONE.check_same("the model", "x")


def test_shares_are_contiguous_and_even() -> None:
    for size in range(1, 6):
        for total in range(13):
            shares = [Ranks(rank, size).share(total) for rank in range(size)]
            assert [row for share in shares for row in share] == list(range(total))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("size", [None, "1"])
def test_without_torchrun_there_is_one_rank(
    size: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if size is not None:
        monkeypatch.setenv("WORLD_SIZE", size)
    with terminable(), connected() as ranks:
        assert ranks is ALONE
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE='many'"),
        ({"WORLD_SIZE": "2"}, "RANK=''"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_PORT=''"),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "MASTER_PORT": "1", "GRAPHPRUNE_TIMEOUT": "soon"},
            "GRAPHPRUNE_TIMEOUT='soon'",
        ),
    ],
)
def test_a_strange_environment_is_refused(
    variables: dict[str, str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT", "GRAPHPRUNE_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(OptionError, match=reason), connected():
        pass


class _SignallingStore:
    """A store whose rank is ended while it is asked or told."""

    def check(self, keys: list[str]) -> bool:
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError(keys)

    def compare_set(self, *texts: str) -> None:
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError(texts)


@pytest.mark.parametrize("error", [RankLostError("another rank was lost"), OptionError("no")])
def test_a_rank_that_is_ended_while_others_are_asked_or_told_still_says_what_it_knows(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    ranks = Ranks(1, 2, _SignallingStore())  # type: ignore[arg-type]
    with terminable():
        assert distributed._cause(ranks, error) is error
