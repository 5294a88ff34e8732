"""``graphprune demo``: the first thing that anyone runs."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Run


def test_the_demo_ends_well_also_where_it_has_run_before(run: Run, workplace: Path) -> None:
    shown = run("demo", "--quiet")
    assert shown.code == 0, shown.stderr
    assert "validation: passed" in shown.stdout
    assert all(len(line) <= 80 for line in shown.stdout.splitlines())
    done = run("demo", "--quiet", "--json")
    assert done.code == 0, done.stderr
    found, out = done.json, workplace / "graphprune-demo"
    assert found["ok"]
    for cost in ("units", "params", "macs", "onnx_bytes"):
        before, after = found[cost]
        assert after < before
    assert found["macs"][1] <= 0.7 * found["macs"][0]
    before, after = found["test_accuracy"]
    assert before > 0.95
    assert after > before - 0.02
    sizes = [(out / f"{name}.onnx").stat().st_size for name in ("unpruned", "pruned")]
    assert sizes == found["onnx_bytes"]
    assert run("validate", "--out", "graphprune-demo", "--quiet").code == 0
