"""The Markdown page of a run: a summary by family, what is not as it should be, every network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Any

Row = dict[str, Any]

_ENOUGH = 0.95
"""Share of a network's parameters that should be prunable."""

_SLOW = 1.0
"""Seconds that an analysis should not take."""

_ONNX_TOLERANCE = 1e-4

_OUTPUT = "output of the network"

_TITLES = {
    "torchvision": "torchvision: classification and segmentation",
    "timm": "timm",
    "huggingface": "Hugging Face",
    "detection": "torchvision: bodies of detectors",
}


def page(rows: Sequence[Row]) -> str:
    """Return the page's generated part."""
    parts = ["## Summary", summary(rows), "## torch-pruning beside it", rivals(rows)]
    parts += ["## ONNX", onnx(rows), "## What is not as it should be", exceptions(rows)]
    parts.append("## Every network")
    for family, title in _TITLES.items():
        chosen = _of(rows, family)
        if chosen:
            parts += [f"### {title}", every(chosen)]
    return "\n\n".join(parts) + "\n"


def table(header: Sequence[str], lines: Iterable[Sequence[str]], numbers: int = 1) -> str:
    """Return a Markdown table; columns from ``numbers`` on are aligned to the right."""
    rule = ["---"] * numbers + ["---:"] * (len(header) - numbers)
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *lines))


def _of(rows: Sequence[Row], family: str) -> list[Row]:
    return [row for row in rows if row["name"].startswith(f"{family}:")]


def _each_family(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    found = [(title, _of(rows, family)) for family, title in _TITLES.items()]
    return [*((title, chosen) for title, chosen in found if chosen), ("**all**", list(rows))]


def _exact(row: Row) -> bool:
    return bool(row["status"] == "exact")


# ---- summary ------------------------------------------------------------------------------------


def summary(rows: Sequence[Row]) -> str:
    """Return one line a family about graphprune."""
    header = (
        "family",
        "networks",
        "pruned and exact",
        "95 % prunable",
        "trace, median (s)",
        "analysis, median (s)",
        "analysis, most (s)",
        "parameters removed, median",
    )
    return table(header, (_family_line(title, chosen) for title, chosen in _each_family(rows)))


def _family_line(title: str, rows: Sequence[Row]) -> list[str]:
    enough = sum(row.get("share", 0) >= _ENOUGH for row in rows)
    traces = [row["trace_seconds"] for row in rows if "trace_seconds" in row]
    analyses = [row["analyse_seconds"] for row in rows if "analyse_seconds" in row]
    removed = [_removed(row) for row in rows if row.get("read_params")]
    return [
        title,
        str(len(rows)),
        _part(sum(map(_exact, rows)), len(rows)),
        _part(enough, len(rows)),
        f"{median(traces):.1f}" if traces else "",
        f"{median(analyses):.2f}" if analyses else "",
        f"{max(analyses):.2f}" if analyses else "",
        f"{median(removed):.0%}" if removed else "",
    ]


def _part(count: int, total: int) -> str:
    return f"{count} ({count / total:.1%})"


def _removed(row: Row) -> float:
    return float(1 - row["params_left"] / row["read_params"])


def rivals(rows: Sequence[Row]) -> str:
    """Return one line a family about torch-pruning."""
    if not any("torch_pruning" in row for row in rows):
        return "Not run."
    header = (
        "family",
        "networks",
        "right",
        "runs, not checked",
        "wrong",
        "nothing pruned",
        "error while pruning",
        "pruned network fails",
        "too slow",
    )
    lines = []
    for title, chosen in _each_family(rows):
        counts = Counter(_rival_kind(row) for row in chosen if "torch_pruning" in row)
        lines.append([title, str(counts.total()), *(str(counts[kind]) for kind in header[2:])])
    return table(header, lines)


def _rival_kind(row: Row) -> str:
    told: dict[str, str] = row["torch_pruning"]
    if told["status"] == "failed":
        return "pruned network fails" if told.get("stage") == "run" else "error while pruning"
    return {
        "runs": "runs, not checked",
        "timeout": "too slow",
        "memory": "error while pruning",
    }.get(told["status"], told["status"])


def onnx(rows: Sequence[Row]) -> str:
    """Return one line for every network that was compared with its ONNX file."""
    compared = [row for row in rows if "onnx_error" in row or "onnx_failure" in row]
    if not compared:
        return "Not run."
    within = sum(row.get("onnx_error", 1) <= _ONNX_TOLERANCE for row in compared)
    lines = [
        (f"`{row['name']}`", row.get("onnx_failure") or f"{row['onnx_error']:.1e}")
        for row in compared
    ]
    told = f"{within} of {len(compared)} within {_ONNX_TOLERANCE:.0e}."
    return told + "\n\n" + table(("network", "largest relative error in float32"), lines)


# ---- exceptions ---------------------------------------------------------------------------------


def exceptions(rows: Sequence[Row]) -> str:
    """Return the networks that are not exact, not prunable enough, slow, or not understood."""
    kinds: tuple[tuple[str, Callable[[Row], str]], ...] = (
        ("Not pruned and exact", _why_not_exact),
        (f"Less than {_ENOUGH:.0%} of the parameters prunable", _why_not_enough),
        ("Ops without a rule for how they are called", _unknown),
        (f"Analysis over {_SLOW:.0f} s", _slow),
        ("Fewer units removed than asked", _short),
        ("Traced with a fixed batch, compared on a batch of 2 alone", _fixed_batch),
    )
    parts = []
    for title, told in kinds:
        lines = [f"- `{row['name']}`: {text}" for row in rows if (text := told(row))]
        parts.append(f"**{title}**:" + ("\n\n" + "\n".join(lines) if lines else " none."))
    return "\n\n".join(parts)


def _why_not_exact(row: Row) -> str:
    if _exact(row):
        return ""
    return f"{row['status']} ({row.get('stage', 'start')}): {_text(row.get('error', ''))}"


def _why_not_enough(row: Row) -> str:
    if row.get("share", 1) >= _ENOUGH:
        return ""
    reasons = [reason for reason in row["pins"] if reason != _OUTPUT] or [_OUTPUT]
    return f"{row['share']:.1%}; " + "; ".join(map(_text, reasons[:3]))


def _unknown(row: Row) -> str:
    return ", ".join(f"`{op}` × {count}" for op, count in row.get("unknown", {}).items())


def _slow(row: Row) -> str:
    seconds = row.get("analyse_seconds", 0)
    return f"{seconds:.1f} s, {row['nodes']} nodes" if seconds > _SLOW else ""


def _short(row: Row) -> str:
    asked, reached = row.get("asked", 0), row.get("reached", 0)
    return f"asked {asked}, removed {reached} of {row['units']}" if reached < asked else ""


def _fixed_batch(row: Row) -> str:
    return "" if row.get("dynamic_batch", True) else "`torch.export` refused a dynamic one"


def _text(words: str) -> str:
    return words.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


# ---- every network ------------------------------------------------------------------------------


def every(rows: Sequence[Row]) -> str:
    """Return one line a network."""
    header = (
        "network",
        "pinned beside the output",
        "torch-pruning",
        "parameters",
        "nodes",
        "trace (s)",
        "analysis (s)",
        "groups",
        "units",
        "prunable",
        "removed / asked",
        "parameters removed",
        "masked",
        "zeroed",
    )
    return table(header, map(_line, rows), numbers=3)


def _line(row: Row) -> list[str]:
    name = row["name"].partition(":")[2]
    if "read_params" not in row:
        rest = [_rival(row), *[""] * 11]
        return [name, _text(f"**{row['status']}**: {row.get('error', '')}"), *rest]
    return [
        name,
        _pins(row["pins"]),
        _rival(row),
        f"{row['params'] / 1e6:.2f} M",
        str(row["nodes"]),
        f"{row['trace_seconds']:.1f}",
        f"{row['analyse_seconds']:.2f}",
        str(row["groups"]),
        str(row["units"]),
        f"{row['share']:.2%}",
        f"{row['reached']} / {row['asked']}",
        f"{_removed(row):.0%}",
        f"{max(row['masked_error'], row['intact_error']):.0e}",
        "" if row["zeroed_error"] is None else f"{row['zeroed_error']:.0e}",
    ]


def _pins(pins: dict[str, int]) -> str:
    shown = [(reason, count) for reason, count in pins.items() if reason != _OUTPUT]
    told = [f"{_text(reason)} ({count})" for reason, count in shown[:2]]
    if len(shown) > 2:
        told.append(f"{len(shown) - 2} more")
    return "; ".join(told)


def _rival(row: Row) -> str:
    told = row.get("torch_pruning")
    if not told:
        return ""
    kind = _rival_kind(row)
    removed = f", {told['params_removed']:.0%}" if kind in ("right", "runs, not checked") else ""
    return kind + removed
