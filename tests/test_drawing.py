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

from graphprune.drawing import draw
from graphprune.graph import trace
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


def texts(root: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in root.iter(f"{SVG}text")]


def test_a_box_names_its_layer_group_and_width() -> None:
    shown = texts(drawn("Residual"))
    assert "stem.0" in shown
    assert "stem.0.weight · 8 units" in shown
    assert "conv2d 3 → 8, 3×3 · norm · relu" in shown
    assert "stays: output of the network" in shown
    assert "+" in shown


def test_coupled_layers_have_one_colour() -> None:
    root = drawn("Residual")
    colours = {}
    for group in root.iter(f"{SVG}g"):
        rect, text = group.find(f"{SVG}rect"), group.find(f"{SVG}text")
        assert rect is not None
        assert text is not None
        colours[text.text] = rect.attrib["fill"]
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
