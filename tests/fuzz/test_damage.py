"""Damaged files of every kind: read all the same, or refused in a sentence, and never changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphprune.errors import InputError
from tests.fuzz.readers import BAD_FROM_THE_START, READERS, Reader

Damage = Callable[[bytes], bytes]

# Damage that moves nothing is likely to get past the outermost checks.
_FLIPS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1)
_ZEROES = st.tuples(st.floats(0, 1), st.integers(1, 64))
_INSERTED = st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=64))
_CUT = st.floats(0, 1, exclude_max=True)


def flipped(flips: list[tuple[float, int]]) -> Damage:
    def damage(content: bytes) -> bytes:
        changed = bytearray(content)
        for place, bits in flips:
            changed[int(place * len(changed))] ^= bits
        return bytes(changed)

    return damage


def zeroed(block: tuple[float, int]) -> Damage:
    def damage(content: bytes) -> bytes:
        start = int(block[0] * len(content))
        end = min(start + block[1], len(content))
        return content[:start] + bytes(end - start) + content[end:]

    return damage


def inserted(block: tuple[float, bytes]) -> Damage:
    def damage(content: bytes) -> bytes:
        start = int(block[0] * len(content))
        return content[:start] + block[1] + content[start:]

    return damage


def truncated(share: float) -> Damage:
    return lambda content: content[: int(share * len(content))]


def foreign(content: bytes) -> Damage:
    return lambda _: content


DAMAGE = st.one_of(
    st.builds(flipped, _FLIPS),
    st.builds(zeroed, _ZEROES),
    st.builds(inserted, _INSERTED),
    st.builds(truncated, _CUT),
    st.builds(foreign, st.binary(max_size=200)),
)


def survives(reader: Reader, path: Path) -> None:
    """Read a file; an error must be one for people, and the file as it was."""
    before = path.read_bytes()
    found = _error_of(reader, path)
    if found is not None:
        assert found.exit_code == 2
        assert len(found.message) > 10
        assert "\n" not in found.message
        assert found.hint
    assert path.read_bytes() == before
    assert {entry.name for entry in path.parent.iterdir()} == {path.name}


def _error_of(reader: Reader, path: Path) -> InputError | None:
    try:
        reader.read(path)
    except InputError as error:
        return error
    return None


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A good file of every kind."""
    folder = tmp_path_factory.mktemp("good")
    contents = {}
    for reader in (*READERS, *BAD_FROM_THE_START):
        path = folder / reader.name
        reader.make(path)
        contents[reader.name] = path.read_bytes()
    return contents


@pytest.fixture
def path(tmp_path: Path, reader: Reader) -> Path:
    """Where the damaged file lies."""
    path = tmp_path / "folder" / reader.name
    path.parent.mkdir(parents=True)
    return path


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_good_files_are_read(reader: Reader, path: Path, good: dict[str, bytes]) -> None:
    path.write_bytes(good[reader.name])
    reader.read(path)


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(damage=DAMAGE)
def test_damaged_files(reader: Reader, path: Path, good: dict[str, bytes], damage: Damage) -> None:
    path.write_bytes(damage(good[reader.name]))
    survives(reader, path)


@pytest.mark.parametrize("reader", [*READERS, *BAD_FROM_THE_START], ids=lambda reader: reader.name)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_files_cut_short_are_refused(
    reader: Reader, path: Path, good: dict[str, bytes], share: float
) -> None:
    whole = good[reader.name]
    path.write_bytes(whole[: min(int(share * len(whole)), len(whole) - 3)])
    # What comes after the pixels of a picture may be missing.
    if share < 0.9 or not reader.name.startswith("images/"):
        with pytest.raises(InputError):
            reader.read(path)
    survives(reader, path)


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_names_in_any_script(reader: Reader, tmp_path: Path, good: dict[str, bytes]) -> None:
    folder = tmp_path / "Größe 模型 🙂 'a\"b"
    path = folder / reader.name
    path.parent.mkdir(parents=True)
    path.write_bytes(good[reader.name])
    reader.read(path)


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_links(reader: Reader, path: Path, good: dict[str, bytes]) -> None:
    target = path.parent.parent / f"target{path.suffix}"
    target.write_bytes(good[reader.name])
    path.symlink_to(target)
    reader.read(path)
    target.write_bytes(b"damaged")
    survives(reader, path)
    target.unlink()
    if reader.name != "rank-state.npz":  # without a state, a ranking starts anew
        with pytest.raises(InputError):
            reader.read(path)


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_a_folder_in_place_of_a_file(reader: Reader, path: Path) -> None:
    path.mkdir(exist_ok=True)
    with pytest.raises(InputError):
        reader.read(path)
