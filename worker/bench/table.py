"""The report as a person reads it: tables, and a last line that says the most of it. Knows text and numbers."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from statistics import fmean

from rich.console import Console
from rich.table import Table

from worker.bench.figures import Comparison, Part, Report, Row, Start

WIDTH = 150
"""Of tables that no terminal bounds."""
NAMES = {Part.DIT: "DiT", Part.VAE: "VAE decode", Part.RENDER: "render"}
NOTES = (
    "before: the slowest block between the third and those that count; the sink turns there first\n"
    "write: how long the writer of the file held a block up, on average"
)
ARROW = "→: from the start of the process"
MILLISECONDS = ("median", "p95", "max", "before", "write", "floor")
SHARE_SHOWN = 0.01
"""Pieces of a floor below this are in the JSON only."""


def text(report: Report) -> str:
    """All tables and the last line."""
    console = Console(file=io.StringIO(), width=WIDTH, highlight=False, markup=False)
    console.print(_heading(report))
    for title, table, note in _tables(report):
        console.print(f"\n{title}")
        console.print(table)
        if note:
            console.print(note)
    for missing in report.not_measured:
        console.print(f"not measured: {missing.what}, {missing.precision}: {missing.reason}")
    assert isinstance(console.file, io.StringIO)
    return f"{console.file.getvalue()}{summary(report)}\n"


def _tables(report: Report) -> Iterator[tuple[str, Table, str]]:
    """Title, table, and what its columns mean where their names do not say it."""
    if report.rows:
        size = f"{report.rows[0].width} × {report.rows[0].height}"
        yield f"Blocks of {size}, milliseconds", _rows(report.rows), NOTES
    if starts := [row for row in report.rows if row.start is not None]:
        yield "Start, seconds", _starts(starts), ARROW
    for row in _one_of_each_floor(report.rows):
        yield f"Floor of {_called(row)}: {row.floor.ms:.1f} ms", _pieces(row), ""
    for one in report.comparisons:
        title = f"{one.way} against {one.reference}, {one.steps} steps"
        yield f"{title}: the flow of the first block", _steps(one), ""
        yield f"{title}: a stream, each way going on from its own blocks", _blocks(one), ""


def summary(report: Report) -> str:
    """One line."""
    device = "nothing" if report.versions is None else report.versions.device
    parts = [
        f"{_called(row)} {row.block_ms.median:.1f} ms per block ({row.times_floor:.2f} × floor)" for row in report.rows
    ]
    parts += [
        f"{one.way} against {one.reference}, {one.steps} steps: flow {max(e.flow for e in one.step_errors):.2%} off, "
        f"latents of block {one.block_errors[-1].block} {one.block_errors[-1].latents:.2%}"
        for one in report.comparisons
    ]
    if report.not_measured:
        parts.append(f"{len(report.not_measured)} not measured")
    return f"{report.plan['preset']} on {device}: {'; '.join(parts)}"


def _heading(report: Report) -> str:
    lines = [f"preset {report.plan['preset']}, weights {report.weights}"]
    seen = report.versions
    if seen is not None:
        gpu = [f"CUDA {seen.cuda}", f"cuDNN {seen.cudnn}", f"Triton {seen.triton}", seen.driver or ""]
        lines.append(
            f"{seen.device}; Python {seen.python}, PyTorch {seen.torch}{', ' + ', '.join(gpu) if seen.cuda else ''}"
        )
        if seen.attention:
            lines.append(f"attention by {', '.join(seen.attention)}")
    return "\n".join(lines)


def _rows(rows: Sequence[Row]) -> Table:
    table = _table(
        ("", "precision", "steps", "ranks"),
        (
            "median",
            "p95",
            "max",
            "before",
            "write",
            "floor",
            "× floor",
            "frames/s",
            "per GPU",
            "SM MHz",
            "W",
            "°C",
            "peak GiB",
        ),
    )
    for row in rows:
        table.add_row(
            NAMES[row.what],
            row.precision if row.memory == "ample" else f"{row.precision}, {row.memory} memory",
            _or_dash(row.steps),
            str(row.ranks) if row.replicas == 1 else f"{row.ranks}, {row.replica + 1} of {row.replicas}",
            f"{row.block_ms.median:.1f}",
            f"{row.block_ms.p95:.1f}",
            f"{row.block_ms.most:.1f}",
            f"{row.slowest_before_ms:.1f}",
            "–" if row.writing_ms is None else f"{row.writing_ms.mean:.1f}",
            f"{row.floor.ms:.1f}",
            f"{row.times_floor:.3f}",
            f"{row.frames_per_second:.1f}",
            f"{row.frames_per_second / row.gpus:.1f}" if row.gpus else "–",
            _each([clock.sm_mhz_median for clock in row.clocks]),
            _each([clock.power_w_mean for clock in row.clocks]),
            _each([clock.temperature_c_most for clock in row.clocks]),
            " ".join(f"{peak:.1f}" for peak in row.peak_gib),
        )
    return table


def _starts(rows: Sequence[Row]) -> Table:
    table = _table(
        ("", "precision", "ranks"),
        ("import", "load", "first block", "rest of warm-up", "→ first block", "→ ready", "next render's first block"),
    )
    for row in rows:
        assert row.start is not None
        table.add_row(NAMES[row.what], row.precision, str(row.ranks), *(f"{one:.2f}" for one in _seconds(row.start)))
    return table


def _seconds(start: Start) -> tuple[float, ...]:
    return (
        start.import_s,
        start.load_s,
        start.first_block_s,
        start.warm_up_s,
        start.from_process_start_to_first_block_s,
        start.from_process_start_to_ready_s,
        start.first_block_of_next_render_s,
    )


def _one_of_each_floor(rows: Sequence[Row]) -> list[Row]:
    """The first row of each kind that has a floor of its own; a render's is that of its parts.

    Other numbers of steps make the same calls, more often.
    """
    seen: dict[tuple[object, ...], Row] = {}
    for row in rows:
        seen.setdefault((row.what, row.precision, row.ranks), row)
    alone = {row.what for row in rows}
    return [row for row in seen.values() if row.what is not Part.RENDER or alone == {Part.RENDER}]


def _pieces(row: Row) -> Table:
    table = _table(
        ("", "shape", "way"),
        ("calls", "µs", "TFLOP/s or TB/s", "ms per block"),
    )
    for piece in row.floor.pieces:
        if piece.ms >= SHARE_SHOWN * row.floor.ms:
            table.add_row(
                "" if piece.name == piece.shape else piece.name,
                piece.shape,
                piece.way,
                str(piece.calls),
                f"{piece.us:.1f}",
                f"{piece.rate:.3g}",
                f"{piece.ms:.2f}",
            )
    return table


def _steps(comparison: Comparison) -> Table:
    table = _table(
        ("step",),
        ("timestep", "relative L2"),
    )
    for error in comparison.step_errors:
        table.add_row(str(error.step), f"{error.timestep:.0f}", f"{error.flow:.3%}")
    return table


def _blocks(comparison: Comparison) -> Table:
    table = _table(
        ("block",),
        ("latents, relative L2", "pixels, PSNR dB"),
    )
    for error in comparison.block_errors:
        if error.psnr_db is not None or error is comparison.block_errors[-1]:
            psnr = "–" if error.psnr_db is None else f"{error.psnr_db:.1f}"
            table.add_row(str(error.block), f"{error.latents:.3%}", psnr)
    return table


def _table(left: Sequence[str], right: Sequence[str]) -> Table:
    table = Table()
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right")
    return table


def _called(row: Row) -> str:
    steps = "" if row.steps is None else f", {row.steps} steps"
    ranks = "" if row.ranks == 1 else f", {row.ranks} ranks"
    replica = "" if row.replicas == 1 else f", replica {row.replica + 1} of {row.replicas}"
    return f"{NAMES[row.what]} {row.precision}{steps}{ranks}{replica}"


def _each(values: Sequence[float]) -> str:
    """Of every GPU, or their mean where they are many."""
    if not values:
        return "–"
    return " ".join(f"{value:.0f}" for value in values) if len(values) <= 3 else f"{fmean(values):.0f}"


def _or_dash(value: object) -> str:
    return "–" if value is None else str(value)
