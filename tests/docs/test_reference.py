"""The reference is complete: every option, every key of every file, every error."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel
from typer.testing import CliRunner

import graphprune
from graphprune import artifacts, errors
from graphprune.comparison import CompareFile, Conditions, Curve, SetsOfUnits, records
from graphprune.fidelity import Fidelity
from graphprune_cli.__main__ import app
from tests.docs.pages import DOCS, code_spans, section

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands

_OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")
_SHARED = "## Shared options"


def options_of(command: Any) -> set[str]:
    names = [name for p in command.params for name in (*p.opts, *p.secondary_opts)]
    return {name for name in names if name[0] == "-"}


def documented(text: str) -> set[str]:
    return {name for span in code_spans(text) for name in _OPTION.findall(span)}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_is_documented(name: str) -> None:
    text = section("reference/cli.md", f"## graphprune {name}")
    options = options_of(COMMANDS[name]) - {"--help"}
    long = {option for option in options if option.startswith("--")}
    assert long - documented(text) == set()
    assert documented(text) - options == set()


def test_every_shared_option_is_explained() -> None:
    own = {"--graph", "--group", "--pins", "--ratio", "--of", "--scope", "--min-units",
           "--round-to", "--steps", "--exchange", "--no-exchange",
           "--ranking", "--repair", "--provider", "--threads", "--batch",
           "--runs", "--criteria", "--ratios", "--seeds", "--repairs", "--eval-data",
           "--eval-limit", "--calibration", "--no-labels", "--no-floor", "--robustness",
           "--points", "--oracle", "--sets", "--plots", "--batches",
           "--rtol", "--atol"}  # fmt: skip
    options = set().union(*map(options_of, COMMANDS.values())) - {"--help"}
    assert documented(section("reference/cli.md", _SHARED)) == options - own


def test_no_command_is_left_out_or_made_up() -> None:
    text = (DOCS / "reference/cli.md").read_text(encoding="utf-8")
    assert re.findall(r"^## graphprune (\w+)$", text, re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize(
    ("record", "heading"),
    [
        (artifacts.RankingFile, "## ranking.json"),
        (artifacts.RankedGroup, "## ranking.json"),
        (artifacts.EffortRecord, "## ranking.json"),
        (artifacts.PlanFile, "## plan.json"),
        (artifacts.PlannedGroupRecord, "## plan.json"),
        (artifacts.CostsRecord, "## plan.json"),
        (artifacts.CostRecord, "## plan.json"),
        (artifacts.ManifestFile, "## manifest.json"),
        (artifacts.RepairRecord, "## manifest.json"),
        (artifacts.AccuracyRecord, "## manifest.json"),
        (artifacts.LatencyRecord, "## manifest.json"),
        (artifacts.IntervalRecord, "## manifest.json"),
        (artifacts.ValidationRecord, "## manifest.json"),
        (artifacts.CheckRecord, "## manifest.json"),
        (artifacts.DivergenceRecord, "## manifest.json"),
        (CompareFile, "## compare.json"),
        (artifacts.ModelRecord, "## Model and data"),
        (artifacts.DataRecord, "## Model and data"),
    ],
)
def test_every_key_of_a_file_is_documented(record: type[BaseModel], heading: str) -> None:
    text = section("reference/files.md", heading)
    keys = set(re.findall(r"\w+", " ".join(code_spans(text))))
    assert set(record.model_fields) - keys - {"format", "groups", "cost", "validation"} == set()
    version = record.model_fields["format"].default if "format" in record.model_fields else ""
    assert version in text


@pytest.mark.parametrize(
    "record",
    [
        records.Cell,
        records.Mean,
        records.OracleRow,
        records.RobustnessRow,
        records.Summary,
        records.Trial,
        Conditions,
        Curve,
        Fidelity,
        SetsOfUnits,
    ],
)
def test_every_key_of_a_comparison_is_documented(record: type[Any]) -> None:
    text = section("reference/files.md", "## compare.json")
    keys = set(re.findall(r"\w+", " ".join(code_spans(text))))
    assert {field.name for field in fields(record)} - keys == set()


def keys_of(document: object) -> set[str]:
    """Return the keys of a JSON document at every depth, but not names that are data."""
    if isinstance(document, list):
        return set().union(*map(keys_of, document))
    if not isinstance(document, dict):
        return set()
    inner = (
        keys_of(value) for key, value in document.items() if key not in ("seconds", "unknown_ops")
    )
    return set(document).union(*inner)


def test_every_key_of_inspect_is_documented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 4)\n\n"
        "    def forward(self, x):\n"
        "        return torch.linalg.matrix_exp(self.b(self.a(x)).unflatten(1, (2, 2)))\n"
    )
    monkeypatch.chdir(tmp_path)
    arguments = ["inspect", "net.py:Net", "--input-shape", "4", "--json", "--quiet"]
    document = json.loads(CliRunner().invoke(app, arguments).stdout)
    text = section("reference/cli.md", "## graphprune inspect")
    documented_keys = set(re.findall(r"\w+", " ".join(code_spans(text))))
    assert document["unknown"]
    assert keys_of(document) - documented_keys == set()


def test_every_error_is_documented() -> None:
    text = (DOCS / "reference/errors.md").read_text(encoding="utf-8")
    tree = errors.__doc__.partition("::\n\n")[2].partition("\n\n")[0]
    assert "\n".join(line[4:] for line in tree.splitlines()) in text
    assert all(name in tree for name in errors.__all__)


def test_every_public_name_is_documented() -> None:
    text = (DOCS / "reference/python-api.md").read_text(encoding="utf-8")
    listed = re.findall(r"^::: [\w.]+\.(\w+)$", text, re.MULTILINE)
    assert set(graphprune.__all__) - set(listed) == set()
    assert len(listed) == len(set(listed))
