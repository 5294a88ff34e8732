"""rank, prune and validate, one after the other, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from tests.cli.conftest import Run

MODEL = ("net.py:net", "--input-shape", "3,8,8")
DATA = ("--data", "images.npz")


def test_three_commands_without_data(run_process: Run, workplace: Path) -> None:
    run = run_process
    ranked = run("rank", *MODEL)
    assert ranked.code == 0, ranked.stderr
    assert "synthetic" in ranked.stderr
    pruned = run("prune", "--ratio", "0.3")
    assert pruned.code == 0, pruned.stderr
    checked = run("validate")
    assert checked.code == 0, checked.stderr
    assert "the same network" in checked.stdout
    out = workplace / "graphprune-out"
    names = {path.name for path in out.iterdir()}
    expected = {"ranking.json", "plan.json", "pruned.pt2", "pruned.onnx", "manifest.json"}
    assert expected <= names
    assert not [name for name in names if ".tmp" in name]


def test_files_hold_what_the_contract_says(run: Run, workplace: Path) -> None:
    assert run("prune", *MODEL, *DATA, "--ratio", "0.4", "--of", "macs", "-q").code == 0
    out = workplace / "graphprune-out"
    ranking = json.loads((out / "ranking.json").read_text())
    plan = json.loads((out / "plan.json").read_text())
    manifest = json.loads((out / "manifest.json").read_text())
    assert {"criterion", "game", "evaluations", "seed", "model_hash"} <= set(ranking)
    for group in ranking["groups"]:
        assert len(group["scores"]) == len(group["stderr"]) == group["units"]
    assert [group["name"] for group in ranking["groups"]] == ["stem.weight", "side.weight"]
    assert plan["asked"] == 0.4
    assert plan["reached"] >= 0.4
    before, after = plan["cost"]["before"], plan["cost"]["after"]
    assert plan["reached"] == pytest.approx(1 - after["macs"] / before["macs"])
    gone = plan["groups"][0]["removed_units"]
    assert plan["removed"]["stem.weight"]["0"] == gone
    assert plan["removed"]["inner.weight"] == {"0": gone, "1": gone}
    assert manifest["validation"]["ok"] is True
    assert manifest["accuracy"]["n_images"] == manifest["fidelity"]["n_images"] == 40
    for record in (manifest["fidelity"]["cut"], manifest["fidelity"]["repaired"]):
        assert record["kl"] > 0
        assert 0 <= record["agreement"] <= 1
    assert manifest["repair"]["method"] == "least-squares"
    held_out = manifest["repair"]["held_out"]
    assert held_out["after"] < held_out["before"]
    assert any(layer["after"] < layer["before"] for layer in manifest["repair"]["layers"])
    assert {"argv", "versions", "hashes", "timings"} <= set(manifest)
    for name in ("ranking", "plan", "manifest"):
        text = (out / f"{name}.json").read_text()
        assert json.loads(text)["format"] == f"graphprune/{name}/1"


def test_onnx_file_takes_any_batch(run: Run, workplace: Path) -> None:
    assert run("prune", *MODEL, "--ratio", "0.3", "-q").code == 0
    session = ort.InferenceSession(
        workplace / "graphprune-out" / "pruned.onnx", providers=["CPUExecutionProvider"]
    )
    assert session.get_inputs()[0].shape[1:] == [3, 8, 8]
    assert isinstance(session.get_inputs()[0].shape[0], str)


def test_json_is_one_document_and_nothing_else(run: Run) -> None:
    ranked = run("rank", *MODEL, "--json").json
    assert ranked["criterion"] == "shapley"
    assert run("prune", "--ratio", "0.3", "--json").json["manifest"]["validation"]["ok"] is True
    assert run("validate", "--json").json["ok"] is True
    assert run("inspect", *MODEL, "--json").json["cost"]["units"] == 20
    assert "versions" in run("doctor", "--json").json


def test_equal_seeds_rank_equally(run: Run) -> None:
    one = run("rank", *MODEL, *DATA, "--json", "--seed", "7").json["groups"]
    two = run("rank", *MODEL, *DATA, "--json", "--seed", "7").json["groups"]
    other = run("rank", *MODEL, *DATA, "--json", "--seed", "8").json["groups"]
    assert one == two
    assert one != other


def test_dry_runs_write_nothing(run: Run, workplace: Path) -> None:
    assert "would rank 20 units" in run("rank", *MODEL, "--dry-run").stdout
    planned = run("prune", *MODEL, "--ratio", "0.5", "--criterion", "l2", "--dry-run")
    assert planned.code == 0
    assert "would remove" in planned.stdout
    assert not (workplace / "graphprune-out").exists()


def test_files_are_found_from_another_folder(run: Run, workplace: Path) -> None:
    assert run("rank", *MODEL, *DATA, "--criterion", "l1").code == 0
    elsewhere = workplace / "elsewhere"
    elsewhere.mkdir()
    out = str(workplace / "graphprune-out")
    assert run("prune", "--ratio", "0.3", "--out", out, cwd=elsewhere).code == 0
    assert run("validate", out, cwd=elsewhere).code == 0


def test_two_files_can_be_validated(run: Run) -> None:
    assert run("prune", *MODEL, "--ratio", "0.3", "-q").code == 0
    files = ("graphprune-out/pruned.pt2", "graphprune-out/pruned.onnx")
    assert run("validate", *files).code == 0
    assert run("prune", *MODEL, "--ratio", "0.5", "-q", "--out", "other").code == 0
    swapped = run("validate", files[0], "other/pruned.onnx")
    assert swapped.code == 1
    assert "NOT the same network" in swapped.stdout


def test_output_fits_eighty_columns(run: Run) -> None:
    shown = [run("rank", *MODEL), run("prune", "--ratio", "0.3"), run("validate")]
    shown.append(run("inspect", *MODEL))
    for finished in shown:
        assert max(len(line) for line in finished.stdout.splitlines()) <= 80


def test_pruning_in_steps(run: Run, workplace: Path) -> None:
    command = ("prune", *MODEL, *DATA, "--ratio", "0.4", "--of", "macs", "--criterion", "taylor")
    shown = run(*command, "--steps", "2")
    assert shown.code == 0
    assert "units removed" in shown.stdout
    out = workplace / "graphprune-out"
    steps = json.loads((out / "manifest.json").read_text())["steps"]
    plan = json.loads((out / "plan.json").read_text())
    assert [step["asked"] for step in steps] == [0.2, 0.4]
    assert steps[1]["reached"] == plan["reached"] >= 0.4
    assert run("validate").code == 0
    # From the folder the first ranking is read and the second made by the same criterion.
    assert run("rank", *MODEL, *DATA, "--criterion", "taylor").code == 0
    again = run("prune", "--ratio", "0.4", "--of", "macs", "--steps", "2", "--json", "--dry-run")
    assert again.json["groups"] == plan["groups"]
    assert again.json["steps"] == steps


def test_the_best_of_several_criteria(run: Run, workplace: Path) -> None:
    pixels = np.random.default_rng(0).normal(size=(40, 3, 8, 8)).astype(np.float32)
    np.savez(workplace / "more.npz", x=pixels)
    command = ("prune", *MODEL, "--data", "more.npz", "--ratio", "0.4", "--of", "macs")
    shown = run(*command, "--criterion", "auto")
    assert shown.code == 0, shown.stderr
    assert "criterion auto kept" in shown.stderr
    assert "16 images held out" in shown.stdout
    assert max(len(line) for line in shown.stdout.splitlines()) <= 80
    out = workplace / "graphprune-out"
    manifest = json.loads((out / "manifest.json").read_text())
    found = manifest["candidates"]["candidates"]
    assert manifest["candidates"]["n_images"] == 16
    assert len(found) >= 4
    divergences = [candidate["fidelity"]["kl"] for candidate in found]
    assert divergences == sorted(divergences)
    assert json.loads((out / "plan.json").read_text())["criterion"] == found[0]["criterion"]
    assert found[0]["criterion"] in (out / "report.html").read_text()


def test_skip_and_only(run: Run, workplace: Path) -> None:
    command = ("prune", *MODEL, "--criterion", "l1", "--ratio", "0.2", "-q")
    assert run(*command, "--skip", "stem*").code == 0
    plan = json.loads((workplace / "graphprune-out" / "plan.json").read_text())
    assert [len(group["removed_units"]) for group in plan["groups"]] == [0, 2]
    unknown = run(*command, "--only", "nothing*")
    assert unknown.code == 2
    assert "matches no group" in unknown.stderr


@pytest.mark.slow
def test_resnet18_as_typed(run_process: Run, workplace: Path) -> None:
    run = run_process
    torchvision = pytest.importorskip("torchvision")
    import torch

    torch.save(torchvision.models.resnet18(), workplace / "model.pt")
    assert run("rank", "model.pt").code == 0
    assert run("prune", "--ratio", "0.3").code == 0
    assert run("validate").code == 0
