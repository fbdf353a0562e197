"""Pictures of a benchmark's rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tinygrad_char.models import picture

Row = dict[str, Any]


def draw_bars(path: Path, title: str, rows: list[Row], labels: list[str]) -> None:
    """Draw the median of each row, labelled, as a bar, and its quartiles as a line."""
    figure = Figure(figsize=(8, 1.2 + 0.3 * len(rows)), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    names = list(dict.fromkeys(row["contender"] for row in rows))
    seconds = [row["seconds"] for row in rows]
    low, high = zip(*(row["quartiles"] for row in rows), strict=True)
    below = [median - each for median, each in zip(seconds, low, strict=True)]
    above = [each - median for median, each in zip(seconds, high, strict=True)]
    colors = [f"C{names.index(row['contender'])}" for row in rows]
    bars = axes.barh(range(len(rows)), seconds, xerr=[below, above], color=colors)
    axes.bar_label(bars, labels, padding=3)
    axes.set_yticks(range(len(rows)), [f"{row['task']}: {row['contender']}" for row in rows])
    axes.invert_yaxis()
    axes.margins(x=0.15, y=0.01)
    if max(seconds) > 10 * min(seconds):
        axes.set_xscale("log")
    axes.set(xlabel="seconds", title=title)
    _save(figure, path)


def draw_lines(path: Path, title: str, rows: list[Row], x: str, panel: str) -> None:
    """Draw medians, and quartiles as a band, over `row[x]`: a panel for each `row[panel]`."""
    panels = list(dict.fromkeys(row[panel] for row in rows))
    figure = Figure(figsize=(4.5 * len(panels), 4.5), dpi=120, layout="constrained")
    figure.suptitle(title)
    for axes, name in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        inside = [row for row in rows if row[panel] == name]
        for contender in dict.fromkeys(row["contender"] for row in inside):
            line = [row for row in inside if row["contender"] == contender]
            line.sort(key=lambda row: row[x])
            places = [row[x] for row in line]
            axes.plot(places, [row["seconds"] for row in line], marker=".", label=contender)
            low, high = zip(*(row["quartiles"] for row in line), strict=True)
            axes.fill_between(places, low, high, alpha=0.3)
        axes.set(xscale="log", yscale="log", title=name, ylabel="seconds")
        axes.set_xlabel(name if panel == "axis" else x)
        ticks = sorted({row[x] for row in inside})
        axes.set_xticks(ticks, [str(each) for each in ticks])
        axes.xaxis.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend()
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.write_bytes(picture.png(figure))
