"""The graph of axes and its files."""

from __future__ import annotations

import json
from pathlib import Path

import networkx as nx
import pytest
import torch

from graphprune.couplings import coupling_graph, write_graph
from graphprune.errors import ArtifactError, OptionError
from graphprune.graph import DependencyGraph, trace
from tests.networks import NETWORKS, traced


@pytest.fixture(scope="module")
def residual() -> DependencyGraph:
    return traced("Residual")


def test_nodes_say_what_an_axis_is(residual: DependencyGraph) -> None:
    axes = coupling_graph(residual)
    assert axes.nodes["stem.0.weight:0"] == {
        "kind": "parameter",
        "op": "",
        "module": "stem.0",
        "parameter": "stem.0.weight",
        "shape": "8x3x3x3",
        "dim": 0,
        "size": 8,
        "group": "stem.0.weight",
        "n_units": 8,
        "role": "producer",
        "pin": "",
    }
    activation = axes.nodes["add:1"]
    assert (activation["kind"], activation["op"]) == ("activation", "aten.add.Tensor")
    assert (activation["group"], activation["role"], activation["pin"]) == ("stem.0.weight", "", "")
    assert axes.nodes["head.fc.weight:0"]["pin"] == "output of the network"
    assert axes.nodes["head.fc.weight:0"]["group"] == ""


def test_edges_join_what_one_op_couples(residual: DependencyGraph) -> None:
    axes = coupling_graph(residual)
    assert axes.edges["conv2d:1", "stem.0.weight:0"] == {
        "op": "aten.conv2d.default",
        "via": "conv2d",
    }
    assert axes.has_edge("stem.0.weight:0", "conv2d:1")
    assert axes.edges["a.0.weight:1", "relu:1"]["via"] == "conv2d_1"


def test_a_convolution_does_not_join_its_input_with_its_output(residual: DependencyGraph) -> None:
    """They are one class through the sum, but not through the convolution."""
    axes = coupling_graph(residual)
    assert not axes.has_edge("a.0.weight:0", "a.0.weight:1")
    assert not axes.has_edge("b.weight:0", "b.weight:1")
    assert axes.edges["relu:1", "conv2d_2:1"]["via"] == "add"


def test_parts_of_a_split_are_named_after_what_takes_them() -> None:
    axes = coupling_graph(traced("SplitUneven"))
    assert axes.edges["getitem:1", "relu:1"]["op"] == "aten.split_with_sizes.default"
    assert not axes.has_edge("getitem:1", "getitem_1:1")


@pytest.mark.parametrize("name", NETWORKS)
def test_components_are_at_most_the_groups_of_units(name: str) -> None:
    """Every axis of a group hangs together through ops, and every edge shares units or none."""
    graph = traced(name)
    axes = coupling_graph(graph)
    for group in graph.groups:
        members = [f"{member.parameter}:{member.dim}" for member in group.members]
        component = nx.node_connected_component(axes, members[0])
        assert component.issuperset(members)


def test_graphml_reads_back(residual: DependencyGraph, tmp_path: Path) -> None:
    write_graph(residual, tmp_path / "axes.graphml")
    back = nx.read_graphml(tmp_path / "axes.graphml")
    assert dict(back.nodes(data=True)) == dict(coupling_graph(residual).nodes(data=True))
    assert back.number_of_edges() == coupling_graph(residual).number_of_edges()


def test_json_reads_back(residual: DependencyGraph, tmp_path: Path) -> None:
    write_graph(residual, tmp_path / "axes.json")
    document = json.loads((tmp_path / "axes.json").read_text(encoding="utf-8"))
    assert nx.utils.graphs_equal(
        nx.node_link_graph(document, edges="links"), coupling_graph(residual)
    )


def test_dot_quotes_names(residual: DependencyGraph, tmp_path: Path) -> None:
    write_graph(residual, tmp_path / "axes.dot")
    text = (tmp_path / "axes.dot").read_text(encoding="utf-8")
    assert text.startswith("graph couplings {")
    assert '"stem.0.weight:0" -- "conv2d:1"' in text
    assert 'pruning_group="stem.0.weight"' in text
    assert text.count("{") == text.count("}") == 1


def test_dot_escapes_quotes(tmp_path: Path) -> None:
    from graphprune.couplings import _quoted

    assert _quoted('a"b\\c\nd') == '"a\\"b\\\\c\\nd"'


def test_svg_is_a_drawing(residual: DependencyGraph, tmp_path: Path) -> None:
    write_graph(residual, str(tmp_path / "network.SVG"))
    assert (tmp_path / "network.SVG").read_text(encoding="utf-8").startswith("<svg")


def test_unknown_suffixes_are_refused(residual: DependencyGraph, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"axes\.png"):
        write_graph(residual, tmp_path / "axes.png")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_an_artifact_error(
    residual: DependencyGraph, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError):
        write_graph(residual, tmp_path / "file" / "axes.json")


def test_names_that_are_special_in_files_survive(tmp_path: Path) -> None:
    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module("a<b>&c", torch.nn.Linear(4, 5))
            self.out = torch.nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(getattr(self, "a<b>&c")(x))

    graph = trace(Odd(), (torch.randn(2, 4),))
    for suffix in (".graphml", ".json", ".dot", ".svg"):
        write_graph(graph, tmp_path / f"odd{suffix}")
    nx.read_graphml(tmp_path / "odd.graphml")
