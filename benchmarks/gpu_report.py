"""What the results of the GPU benchmark say: one table, and where two sides do not agree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tinygrad_char.benchmarks.gpu_timing import Row

SIZES_APART = 0.02
"""How far results of attention in bfloat16 may be apart, in the mean over a tensor."""
LOSSES_APART = {"float32": 1e-3, "tf32": 2e-3, "bf16": 2e-2}
"""And first losses: of the sums of a few layers, each rounded."""

Parts = dict[str, Row]


class Line(NamedTuple):
    """A line of the table; `target` is what the ratio, or what `met` says, should be."""

    what: str
    taken: str
    rate: str = ""
    ratio: str = ""
    beside: str = ""
    target: str = ""


def table(results: Row) -> str:
    """Return all figures as lines of columns."""
    titles = Line("", "time", "rate", "ratio", "of, or beside", "target")
    lines = [titles]
    for heading, part in (
        ("compiled", _compiled),
        ("checks", _checks),
        ("ceilings", _ceilings),
        ("kernels", _kernels),
        ("attention in bfloat16", _attention),
        ("training step of `lecture-full`", _steps),
        ("training", _training),
        ("loops, products, fused", _ladders),
    ):
        found = list(part(results["parts"]))
        if found:
            lines += [Line("", ""), Line(heading.upper(), ""), *found]
    if results["machine"].get("device") != "cuda":  # whose times say nothing
        lines = [titles, *(line._replace(target="") for line in lines[1:])]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            text.rjust(width) if 1 <= i <= 3 else text.ljust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _rows(parts: Parts, name: str) -> dict[str, Row]:
    """Return the rows that have figures, by their case."""
    rows = parts.get(name, {}).get("rows", [])
    return {row["case"]: row for row in rows if "error" not in row}


def _failed(parts: Parts, name: str) -> Iterator[Line]:
    """Yield what there are no figures of."""
    section = parts.get(name, {})
    for row in section.get("rows", []):
        if "error" in row:
            yield Line(row["case"], "failed", beside=_first_line(row["error"]))
    if "error" in section:
        yield Line(f"({name})", "", beside=_first_line(section["error"]))


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:70] if text.strip() else "no reason given"


def _time(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} us"
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _compiled(parts: Parts) -> Iterator[Line]:
    for row in _rows(parts, "compile").values():
        beside = f"{row['variants']} variants, the longest {_time(row['longest_seconds'])}"
        yield Line(row["case"], _time(row["seconds"]), beside=beside)
    yield from _failed(parts, "compile")


def _checks(parts: Parts) -> Iterator[Line]:
    if "checks" not in parts:
        return
    rows = _rows(parts, "checks").values()
    passed = sum(row["passed"] for row in rows)
    yield Line(f"{passed} of {len(parts['checks']['rows'])} passed", "")
    for row in rows:
        if not row["passed"]:
            yield Line(row["case"], f"off {row['off']:.2g}", beside=f"allowed {row['allowed']:.2g}")
    yield from _failed(parts, "checks")


def _ceilings(parts: Parts) -> Iterator[Line]:
    for name, row in _rows(parts, "ceilings").items():
        yield Line(name, _time(row["seconds"]), _rate(row))
    yield from _failed(parts, "ceilings")


def _rate(row: Row) -> str:
    if "products" in row:
        return f"{2e-12 * row['products'] / row['seconds']:.1f} TFLOP/s"
    return f"{1e-9 * row['bytes'] / row['seconds']:.0f} GB/s"


def limit(parts: Parts, row: Row) -> tuple[str, float] | None:
    """Return what limits a computation, and the part of that limit which it reaches.

    None where the ceiling was not measured. It takes at least the time in which its bytes are
    copied, and that in which its products are added up by a product of large matrices.
    """
    measured = _rows(parts, "ceilings")
    bounds = []
    for name, quantity in (("copy", "bytes"), (f"product {row.get('precision')}", "products")):
        if quantity in row and name in measured:
            ceiling = measured[name]
            seconds = row[quantity] * ceiling["seconds"] / ceiling[quantity]
            bounds.append((name, seconds / row["seconds"]))
    return max(bounds, key=lambda each: each[1], default=None)


def _kernels(parts: Parts) -> Iterator[Line]:
    for name, row in _rows(parts, "kernels").items():
        bound = limit(parts, row)
        line = Line(name, _time(row["seconds"]), _rate(row))
        if bound:
            what, share = bound
            target = "" if "products" in row else _judged(share, 0.8)
            line = line._replace(ratio=f"{share:.0%}", beside=f"of {what}", target=target)
        yield line
    yield from _failed(parts, "kernels")


def _judged(value: float, least: float, text: str | None = None) -> str:
    return f"{text or f'{least:g}'}: {'met' if value >= least else 'missed'}"


def _attention(parts: Parts) -> Iterator[Line]:
    theirs = _rows(parts, "PyTorch")
    for name, row in _rows(parts, "attention").items():
        others = {
            each.removesuffix(f" {name}"): other
            for each, other in theirs.items()
            if each.endswith(f" {name}")
        }
        for what, field in (
            ("forward", "forward_seconds"),
            ("with backward", "seconds"),
            ("with backward, atomic", "atomic_seconds"),
        ):
            line = Line(f"{name}, {what}", _time(row[field]))
            if what != "forward":
                total = sum(row["products"].values())
                line = line._replace(rate=_rate({"products": total, "seconds": row[field]}))
            if not others:
                yield line
            for other_name, other in others.items():
                its = other["forward_seconds" if what == "forward" else "seconds"]
                ratio = its / row[field]
                target = ""
                if other_name == "flash" and what == "with backward" and row["shape"][2] <= 2048:
                    target = _judged(ratio, 1)
                yield line._replace(
                    ratio=f"{ratio:.2f} x",
                    beside=f"PyTorch {other_name}, {_time(its)}",
                    target=target,
                )
    yield from _failed(parts, "attention")


def _steps(parts: Parts) -> Iterator[Line]:
    ours = _rows(parts, "steps")
    theirs = {**_rows(parts, "PyTorch"), **_rows(parts, "PyTorch compiled")}
    for name, row in ours.items():
        bound = limit(parts, row)
        line = Line(name, _time(row["seconds"]), _rate(row))
        beside = f"of {bound[0]}" if bound else ""
        reason = row.get("reason_not_as_graph")
        yield line._replace(
            ratio=f"{bound[1]:.0%}" if bound else "",
            beside=f"not as a graph: {reason}" if reason else beside,
        )
    for name, other in theirs.items():
        if "precision" not in other:  # a row of attention
            continue
        precision = other["precision"]
        mine = ours.get(f"graph {precision}")
        line = Line(f"PyTorch {name}", _time(other["seconds"]))
        if mine:
            ratio = other["seconds"] / mine["seconds"]
            least = 1.5 if name.startswith("compiled") else 3
            target = _judged(ratio, least) if precision == "bf16" else ""
            line = line._replace(
                ratio=f"{ratio:.2f} x", beside=f"our graph {precision}", target=target
            )
        yield line
    for part in ("steps", "PyTorch", "PyTorch compiled"):
        yield from _failed(parts, part)


def _training(parts: Parts) -> Iterator[Line]:
    for name, row in _rows(parts, "training").items():
        in_time, low = row["seconds"] < 60, row["validation_loss"] <= 1.48
        yield Line(
            name,
            _time(row["seconds"]),
            beside=f"validation loss {row['validation_loss']:.4f}",
            target=f"60 s: {'met' if in_time else 'missed'}, 1.48: {'met' if low else 'missed'}"
            if row["steps"] >= 5000
            else "",
        )
    yield from _failed(parts, "training")


def _ladders(parts: Parts) -> Iterator[Line]:
    for part in ("averaging", "attention ladder"):
        for name, row in _rows(parts, part).items():
            bound = limit(parts, row)
            yield Line(
                f"{name} {tuple(row['shape'])}",
                _time(row["seconds"]),
                _rate(row),
                f"{bound[1]:.2%}" if bound else "",
                f"of {bound[0]}" if bound else "",
            )
        yield from _failed(parts, part)


def disagreements(parts: Parts) -> list[str]:
    """Return where our results and PyTorch's are not the same, as far as both are there."""
    found = []
    theirs = _rows(parts, "PyTorch")
    for name, row in _rows(parts, "attention").items():
        for other_name, other in theirs.items():
            if not other_name.endswith(f" {name}"):
                continue
            for what, mine, its in zip(
                ("out", "dq", "dk", "dv"), row["sizes"], other["sizes"], strict=True
            ):
                if not abs(mine - its) <= SIZES_APART * its:
                    found.append(f"attention {name}: {what} is {mine:.4g}, PyTorch's {its:.4g}")
    for name, row in _rows(parts, "steps").items():
        precision = row["precision"]
        for other_name, other in theirs.items():
            if other.get("precision") != precision:
                continue
            mine, its = row["first_loss"], other["first_loss"]
            if not abs(mine - its) <= LOSSES_APART[precision] * its:
                found.append(f"first loss, {name}: {mine:.5g}, PyTorch {other_name}: {its:.5g}")
    return found
