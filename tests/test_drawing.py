"""Drawings: valid XML, boxes apart from each other, and the committed pictures are up to date."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

from graphprune.boxes import boxes_of
from graphprune.drawing import draw
from graphprune.graph import trace
from graphprune.layout import lines, place
from tests.networks import NETWORKS, traced

DOCS = Path(__file__).parents[1] / "docs"
SVG = "{http://www.w3.org/2000/svg}"


def drawn(name: str) -> ElementTree.Element:
    return ElementTree.fromstring(draw(traced(name)))


def rectangles(root: ElementTree.Element) -> list[tuple[float, float, float, float]]:
    """Return left, top, right, bottom of every box."""
    found = []
    for group in root.iter(f"{SVG}g"):
        rect = group.find(f"{SVG}rect")
        assert rect is not None
        x, y, w, h = (float(rect.attrib[key]) for key in ("x", "y", "width", "height"))
        found.append((x, y, x + w, y + h))
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_boxes_are_inside_and_apart(name: str) -> None:
    root = drawn(name)
    left, top, width, height = (float(part) for part in root.attrib["viewBox"].split())
    boxes = rectangles(root)
    assert boxes
    for x0, y0, x1, y1 in boxes:
        assert left <= x0 < x1 <= left + width
        assert top <= y0 < y1 <= top + height
    for a, b in itertools.combinations(boxes, 2):
        assert a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]


def boxes_by_title(root: ElementTree.Element) -> dict[str, ElementTree.Element]:
    found = {}
    for group in root.iter(f"{SVG}g"):
        rect, text = group.find(f"{SVG}rect"), group.find(f"{SVG}text")
        assert rect is not None
        assert text is not None
        found[text.text or ""] = rect
    return found


def texts(root: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in root.iter(f"{SVG}text")]


def test_a_box_names_its_layer_group_and_width() -> None:
    shown = texts(drawn("Residual"))
    assert "stem.0" in shown
    assert "group 1 · 8 channels" in shown
    assert "conv2d 3 → 8, 3×3 · norm · relu" in shown
    assert "stays: output of the network" in shown
    assert "+" in shown


def test_the_legend_lists_groups_by_number() -> None:
    graph = traced("Residual")
    shown = texts(drawn("Residual"))
    legend = shown[shown.index("groups") :]
    for number, group in enumerate(graph.groups, 1):
        at = legend.index(group.name)
        assert legend[at - 1 : at + 2] == [str(number), group.name, f"{len(group)} channels"]
    assert "stays, for the reason given" in legend


def test_what_stays_is_hatched() -> None:
    fills = boxes_by_title(drawn("Residual"))
    assert fills["head.fc"].attrib["fill"] == "url(#stays)"
    assert "stroke-dasharray" in fills["head.fc"].attrib
    assert "stroke-dasharray" not in fills["stem.0"].attrib


def test_entries_that_stay_beside_units_are_counted() -> None:
    """Three channels of the input are joined to what a convolution makes."""

    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.deep = nn.Conv2d(3, 8, 1), nn.Conv2d(11, 11, 1, groups=11)
            self.head = nn.Conv2d(11, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.deep(torch.cat([x, self.conv(x)], 1)))

    shown = texts(ElementTree.fromstring(draw(trace(Joined(), (torch.randn(2, 3, 4, 4),)))))
    assert "group 1 · 8 channels, 3 more stay" in shown


def test_a_residual_stream_is_one_column() -> None:
    rects = boxes_by_title(drawn("Residual"))
    centres = {
        title: float(rect.attrib["x"]) + float(rect.attrib["width"]) / 2
        for title, rect in rects.items()
    }
    assert len({round(x, 3) for x in centres.values()}) == 1


def test_branches_stand_side_by_side_and_meet_in_the_middle() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 1)
            self.a, self.b, self.c = (nn.Conv2d(4, 4, 1) for _ in range(3))
            self.deeper = nn.Conv2d(4, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            return torch.cat([self.a(x), self.deeper(self.b(x)), self.c(x)], 1)

    root = ElementTree.fromstring(draw(trace(Branches(), (torch.randn(2, 3, 4, 4),))))
    centre = {t: float(r.attrib["x"]) + float(r.attrib["width"]) / 2
              for t, r in boxes_by_title(root).items()}  # fmt: skip
    assert centre["a"] < centre["b"] == centre["deeper"] == centre["stem"] < centre["c"]
    assert centre["cat"] == centre["stem"]
    assert centre["b"] - centre["a"] == pytest.approx(centre["c"] - centre["b"])


def test_long_lines_of_one_box_share_a_lane() -> None:
    """The input of a dense block is read by every later concatenation."""

    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 1)
            self.layers = nn.ModuleList(nn.Conv2d(4 * (k + 1), 4, 1) for k in range(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made = [self.stem(x)]
            for layer in self.layers:
                made.append(layer(torch.cat(made, 1)))
            return torch.cat(made, 1)

    boxes = boxes_of(trace(Dense(), (torch.randn(2, 3, 4, 4),)))
    for box in boxes:
        box.width = 100.0
    place(boxes)
    around = [way for way in lines(boxes) if way.right]
    lanes = {way.source: {other.right for other in around if other.source == way.source}
             for way in around}  # fmt: skip
    assert len(around) > len(lanes)
    assert all(len(used) == 1 for used in lanes.values())
    assert len(set().union(*lanes.values())) == len(lanes)  # and no two boxes one


def test_parts_of_one_module_are_told_apart() -> None:
    """The two layers of an attention module are called after the weights that they read."""
    model = nn.MultiheadAttention(8, 2, batch_first=True)

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.attention(x, x, x, need_weights=False)[0]

    shown = texts(ElementTree.fromstring(draw(trace(Attention(), (torch.randn(2, 5, 8),)))))
    assert "attention.in_proj" in shown
    assert "attention.out_proj" in shown


def test_outputs_are_named_where_there_are_several() -> None:
    shown = texts(drawn("TwoInputs"))
    assert "output 0" in shown
    assert "output 1.other.0" in shown


def test_coupled_layers_have_one_colour() -> None:
    root = drawn("Residual")
    colours = {title: rect.attrib["fill"] for title, rect in boxes_by_title(root).items()}
    assert colours["stem.0"] == colours["b"] == colours["+"]
    assert colours["a.0"] != colours["stem.0"]


def test_text_is_escaped() -> None:
    model = nn.Sequential()
    model.add_module("a<b>&c", nn.Linear(4, 5))
    model.add_module("out", nn.Linear(5, 2))
    root = ElementTree.fromstring(draw(trace(model, (torch.randn(2, 4),))))
    assert "a<b>&c" in texts(root)


@pytest.fixture(scope="module")
def make_pictures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_pictures", DOCS / "make_pictures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_committed_pictures_are_what_the_script_makes(make_pictures: ModuleType) -> None:
    for file, text in make_pictures.pictures().items():
        committed = (DOCS / "assets" / file).read_text(encoding="utf-8")
        assert committed == text, f"run `python docs/make_pictures.py`: {file} is out of date"


def test_widths_are_shown_before_and_after() -> None:
    graph = traced("Residual")
    kept = graph.all_kept()
    kept[:3] = False
    root = ElementTree.fromstring(draw(graph, kept))
    shown = texts(root)
    assert "group 1 · 8 → 5 channels" in shown
    assert "8 → 5 channels" in shown[shown.index("groups") :]
    untouched = graph.groups[1]
    assert f"group 2 · {untouched.n_units} channels" in shown
    stem = next(g for g in root.iter(f"{SVG}g") if g.find(f"{SVG}text").text == "stem.0")
    track, left = [r for r in stem.iter(f"{SVG}rect") if r.attrib["height"] == "2.5"]
    assert float(left.attrib["width"]) == pytest.approx(
        5 / 8 * float(track.attrib["width"]), rel=0.01
    )
