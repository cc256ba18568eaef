"""The picture of a run: rates over executions at once, on logarithmic axes, as SVG."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

from benchmarks.found import Found

__all__ = ["draw"]

COLOURS = {
    "zart": "#c2410c",
    "dbos": "#94a3b8",
    "dbos tuned": "#475569",
    "absurd": "#0f766e",
    "pgqueuer": "#1d4ed8",
    "procrastinate": "#7e22ce",
}
MARKS = {"postgres": ("o", "-"), "sqlite": ("s", "--"), "mysql": ("^", ":")}
PANELS = (
    ("10 steps, started directly", "throughput", 10, "steps/s"),
    ("10 steps, through the queue", "queue", 10, "steps/s"),
    ("no steps, through the queue", "queue", 0, "executions/s"),
)


def draw(found: Found, about: str, path: Path) -> None:
    """Draw what there is of each panel; the same figures give the same file."""
    mpl.rcParams["svg.hashsalt"] = "zart"
    mpl.rcParams["font.size"] = 9
    figure, axes = plt.subplots(1, len(PANELS), figsize=(13, 4.8), layout="constrained")
    for panel, (title, group, steps, unit) in zip(axes, PANELS, strict=True):
        panel.set(xscale="log", yscale="log", title=title, xlabel="at once", ylabel=unit)
        _lines(panel, found, group, steps, unit)
        panel.set_xticks([1, 32, 256, 1000], ["1", "32", "256", "1,000"])
        panel.minorticks_off()
        panel.yaxis.set_major_formatter("{x:,.0f}")
        panel.grid(visible=True, color="#e5e7eb")
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(about, fontsize=8, color="#475569")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _lines(panel: Any, found: Found, group: str, steps: int, unit: str) -> None:
    lines: dict[tuple[str, str], list[tuple[int, float, float, float]]] = {}
    for key, figure in found.of(group):
        matched = re.fullmatch(rf"{steps} steps?, ([\d,]+) at once", key.label)
        if matched and key.unit == unit:
            at_once = int(matched[1].replace(",", ""))
            point = (at_once, figure.median, min(figure.medians), max(figure.medians))
            lines.setdefault((key.system, key.kind), []).append(point)
    for (system, kind), points in lines.items():
        marker, style = MARKS[kind]
        at_once, medians, lowest, highest = zip(*sorted(points), strict=True)
        below = [median - low for median, low in zip(medians, lowest, strict=True)]
        above = [high - median for median, high in zip(medians, highest, strict=True)]
        panel.errorbar(
            at_once,
            medians,
            yerr=(below, above),
            color=COLOURS[system],
            marker=marker,
            linestyle=style,
            markersize=4,
            linewidth=2 if system == "zart" else 1.3,
            capsize=2,
            label=system if kind == "postgres" else f"{system}, {kind}",
        )
    if lines:
        panel.legend(fontsize=7.5, frameon=False)
