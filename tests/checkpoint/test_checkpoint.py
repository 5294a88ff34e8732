"""The state file: written whole, refused where it does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphprune.checkpoint import NO_STATE, Checkpoint, StateStore
from graphprune.errors import ArtifactError

ARRAYS = {"done": np.array(3), "sums": np.arange(6.0).reshape(2, 3)}


def store(path: Path, *, model: str = "model", resume: bool = True) -> StateStore:
    return StateStore(path=path, model=model, resume=resume, every=0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "rank-state.npz"


@pytest.fixture
def written(path: Path) -> Path:
    checkpoint = store(path).open(data="data", settings={"seed": 0, "value": None})
    checkpoint.part("one").finish({"scores": np.ones(2)})
    checkpoint.part("two").save(ARRAYS)
    return path


def test_what_was_written_is_taken_up(written: Path) -> None:
    checkpoint = store(written).open(data="data", settings={"seed": 0, "value": None})
    found = checkpoint.part("two").load(ARRAYS)
    assert found is not None
    assert set(found) == set(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    result = checkpoint.part("one").result({"scores": np.ones(2)})
    assert result is not None
    assert result["scores"].tolist() == [1, 1]
    assert checkpoint.part("one").load(ARRAYS) is None
    assert checkpoint.part("two").result(ARRAYS) is None
    assert checkpoint.part("three").load(ARRAYS) is None


def test_a_result_takes_the_place_of_what_led_to_it(written: Path) -> None:
    checkpoint = store(written).open(data="data", settings={"seed": 0, "value": None})
    checkpoint.part("two").finish({"scores": np.zeros(2)})
    again = store(written).open(data="data", settings={"seed": 0, "value": None})
    assert again.part("two").load(ARRAYS) is None
    assert again.part("two").result({"scores": np.zeros(2)}) is not None
    assert again.part("one").result({"scores": np.zeros(2)}) is not None


def test_nothing_is_taken_up_unless_asked_for(written: Path) -> None:
    checkpoint = store(written, resume=False).open(data="other", settings={})
    assert checkpoint.part("two").load(ARRAYS) is None
    assert written.exists()


def test_a_run_that_was_killed_before_its_first_write_starts_anew(path: Path) -> None:
    assert store(path).open(data="data", settings={}).part("all").load(ARRAYS) is None


def test_clearing(written: Path) -> None:
    store(written).clear()
    assert not written.exists()
    store(written).clear()


@pytest.mark.parametrize(
    ("model", "data", "settings", "reason"),
    [
        ("other", "data", {"seed": 0, "value": None}, "the model has changed since"),
        ("model", "other", {"seed": 0, "value": None}, "the calibration data have changed since"),
        ("model", "data", {"seed": 1, "value": None}, "seed was 0 and is 1"),
        ("model", "data", {"seed": 0, "value": "kl"}, "value was None and is kl"),
        ("model", "data", {"seed": 0, "value": None, "new": 1}, "new was None and is 1"),
    ],
)
def test_another_runs_state_is_refused_with_the_reason(
    written: Path, model: str, data: str, settings: dict[str, object], reason: str
) -> None:
    with pytest.raises(ArtifactError, match=reason) as error:
        store(written, model=model).open(data=data, settings=settings)
    assert "without --resume" in str(error.value)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    "content", [b"", b"not an archive", "array", "truncated", "no identity", "pickle"]
)
def test_a_damaged_file_is_refused(written: Path, content: bytes | str) -> None:
    if content == "truncated":
        content = written.read_bytes()[:-40]
    if isinstance(content, bytes):
        written.write_bytes(content)
    elif content == "array":
        with written.open("wb") as handle:
            np.save(handle, np.ones(3))
    elif content == "no identity":
        np.savez(written, done=np.array(1))
    else:
        np.savez(written, identity=np.array([{"a": 1}], object))
    with pytest.raises(ArtifactError, match=r"rank-state\.npz is damaged") as error:
        store(written).open(data="data", settings={})
    assert "\n" not in error.value.message


def test_a_folder_in_its_place_is_refused(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(ArtifactError, match="is damaged"):
        store(path).open(data="data", settings={})


def test_another_format_is_refused(path: Path) -> None:
    path.parent.mkdir()
    np.savez(path, identity=np.array('{"format": "graphprune/state/99"}'))
    with pytest.raises(ArtifactError, match="format 'graphprune/state/99', this version reads"):
        store(path).open(data="data", settings={})


def test_arrays_of_another_shape_are_refused(written: Path) -> None:
    checkpoint = store(written).open(data="data", settings={"seed": 0, "value": None})
    with pytest.raises(ArtifactError, match="the state of 'work on two' does not fit"):
        checkpoint.part("two").load({"done": np.array(0), "sums": np.zeros((2, 4))})


def test_writes_are_spaced_in_time(tmp_path: Path) -> None:
    now = [0.0]
    path = tmp_path / "state.npz"
    checkpoint = Checkpoint(path, {"format": "f"}, every=2.0, clock=lambda: now[0])
    written = []
    for tick in range(100):
        now[0] = tick / 10
        before = path.stat().st_mtime_ns if path.exists() else 0
        checkpoint.part("all").save({"tick": np.array(tick)})
        if path.exists() and path.stat().st_mtime_ns != before:
            written.append(tick)
    assert written == [20, 40, 60, 80]


def test_what_is_written_does_not_change_with_the_next_step(written: Path) -> None:
    sums = np.zeros(2)
    identity = {"seed": 0, "value": None}
    checkpoint = store(written).open(data="data", settings=identity)
    checkpoint.part("all").save({"sums": sums})
    sums += 1
    again = store(written).open(data="data", settings=identity).part("all").load({"sums": sums})
    assert again is not None
    assert again["sums"].tolist() == [0, 0]


def test_no_temporary_file_is_left(written: Path) -> None:
    assert [path.name for path in written.parent.iterdir()] == [written.name]


def test_nowhere() -> None:
    checkpoint = Checkpoint()
    checkpoint.part("all").save(ARRAYS)
    assert checkpoint.part("all").load(ARRAYS) is None
    NO_STATE.save(ARRAYS)
    assert NO_STATE.load(ARRAYS) is None
