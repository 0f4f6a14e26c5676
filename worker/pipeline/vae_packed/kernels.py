"""The Triton kernels behind `TritonRows`: one program for a few pixels, all frames of them, one read and one write.

Knows pointers and rows. A program owns its pixels in every frame, so it may write over what it has read, and carries
the two frames before in registers. Values are float32 inside; the pointers' types decide how they are stored. Offsets
are 32-bit: no tensor may have 2^31 elements.
"""

from __future__ import annotations

# mypy: ignore-errors
import triton
import triton.language as tl

SOURCE_FRAMES = tl.constexpr(0)
SOURCE_PRODUCTS = tl.constexpr(1)
SOURCE_CELLS = tl.constexpr(2)

NORM_NONE = tl.constexpr(0)
NORM_PLAIN = tl.constexpr(1)
NORM_SILU = tl.constexpr(2)

SINK_NONE = tl.constexpr(0)
SINK_ROWS = tl.constexpr(1)
SINK_TAPS = tl.constexpr(2)
SINK_PAIRS = tl.constexpr(3)


@triton.jit
def sum_and_prepare(
    source0, source1, source2, source3, bias, residual, total, norm, cache, out0, out1, out2, out3,
    pixels, width, CHANNELS: tl.constexpr, FRAMES: tl.constexpr, SOURCE: tl.constexpr, HALVES: tl.constexpr,
    NORM: tl.constexpr, SINK: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    KEEPS_TOTAL: tl.constexpr, SHORTEST: tl.constexpr, BLOCK_PIXELS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """source + bias + residual of every frame, its norm, and the input of the next layer."""
    pixel = tl.program_id(0) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)[:, None]
    channel = tl.arange(0, BLOCK_CHANNELS)[None, :]
    mask = (pixel < pixels) & (channel < CHANNELS)
    spot = pixel * CHANNELS + channel
    frame_size = pixels * CHANNELS
    earlier = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), tl.float32)
    latest = earlier
    if SINK >= SINK_TAPS:
        earlier = tl.load(cache + spot, mask=mask, other=0.0).to(tl.float32)
        latest = tl.load(cache + frame_size + spot, mask=mask, other=0.0).to(tl.float32)
    for pair in tl.static_range((FRAMES + 1) // 2):
        second = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), tl.float32)
        if SOURCE == SOURCE_PRODUCTS:
            m1 = tl.load(source1 + pair * frame_size + spot, mask=mask, other=0.0).to(tl.float32)
            m2 = tl.load(source2 + pair * frame_size + spot, mask=mask, other=0.0).to(tl.float32)
            first = tl.load(source0 + pair * frame_size + spot, mask=mask, other=0.0).to(tl.float32) + m1 + m2
            if 2 * pair + 1 < FRAMES:
                second = m1 - m2 - tl.load(source3 + pair * frame_size + spot, mask=mask, other=0.0).to(tl.float32)
        else:
            first = _frame(source0, 2 * pair, pixel, channel, mask, pixels, width, CHANNELS, FRAMES, SOURCE, HALVES)
            if 2 * pair + 1 < FRAMES:
                second = _frame(
                    source0, 2 * pair + 1, pixel, channel, mask, pixels, width, CHANNELS, FRAMES, SOURCE, HALVES
                )
        if HAS_BIAS:
            shift = tl.load(bias + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)
            first += shift
            second += shift
        if HAS_RESIDUAL:
            first += tl.load(residual + 2 * pair * frame_size + spot, mask=mask, other=0.0).to(tl.float32)
            if 2 * pair + 1 < FRAMES:
                second += tl.load(residual + (2 * pair + 1) * frame_size + spot, mask=mask, other=0.0).to(tl.float32)
        if KEEPS_TOTAL:
            tl.store(total + 2 * pair * frame_size + spot, first, mask=mask)
            if 2 * pair + 1 < FRAMES:
                tl.store(total + (2 * pair + 1) * frame_size + spot, second, mask=mask)
        if NORM != NORM_NONE:
            first = _normed(first, norm, channel, CHANNELS, NORM, SHORTEST)
            if 2 * pair + 1 < FRAMES:
                second = _normed(second, norm, channel, CHANNELS, NORM, SHORTEST)
        if SINK == SINK_ROWS:
            tl.store(out0 + 2 * pair * frame_size + spot, first, mask=mask)
            if 2 * pair + 1 < FRAMES:
                tl.store(out0 + (2 * pair + 1) * frame_size + spot, second, mask=mask)
        if SINK == SINK_TAPS:
            side_by_side = out0 + pixel * (3 * CHANNELS) + channel
            _store_taps(side_by_side + 2 * pair * 3 * frame_size, earlier, latest, first, mask, CHANNELS)
            if 2 * pair + 1 < FRAMES:
                _store_taps(side_by_side + (2 * pair + 1) * 3 * frame_size, latest, first, second, mask, CHANNELS)
        if SINK == SINK_PAIRS:
            tl.store(out0 + pair * frame_size + spot, earlier - first, mask=mask)
            tl.store(out1 + pair * frame_size + spot, latest + first, mask=mask)
            tl.store(out2 + pair * frame_size + spot, first - latest, mask=mask)
            if 2 * pair + 1 < FRAMES:
                tl.store(out3 + pair * frame_size + spot, latest - second, mask=mask)
            else:
                tl.store(out3 + pair * frame_size + spot, latest, mask=mask)
        if 2 * pair + 1 < FRAMES:
            earlier = first
            latest = second
        else:
            earlier = latest
            latest = first
    if SINK >= SINK_TAPS:
        tl.store(cache + spot, earlier, mask=mask)
        tl.store(cache + frame_size + spot, latest, mask=mask)


@triton.jit
def _frame(
    source, frame: tl.constexpr, pixel, channel, mask, pixels, width,
    CHANNELS: tl.constexpr, FRAMES: tl.constexpr, SOURCE: tl.constexpr, HALVES: tl.constexpr,
):  # fmt: skip
    """One frame of a source that has it as it is, or in cells."""
    if SOURCE == SOURCE_CELLS:
        row = pixel // width
        column = pixel % width
        down = row % 2
        right = column % 2
        cell_columns = width // 2 + 1
        cell_rows = pixels // width // 2 + 1
        picture = (frame % HALVES) * (FRAMES // HALVES) + frame // HALVES
        cell = (picture * cell_rows + row // 2 + down) * cell_columns + column // 2 + right
        offset = (cell * 4 + down * 2 + right) * CHANNELS + channel
    else:
        offset = (frame * pixels + pixel) * CHANNELS + channel
    return tl.load(source + offset, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _normed(x, norm, channel, CHANNELS: tl.constexpr, NORM: tl.constexpr, SHORTEST: tl.constexpr):
    length = tl.maximum(tl.sqrt(tl.sum(x * x, 1)), SHORTEST)[:, None]
    scale = tl.load(norm + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)
    x = x / length * scale
    if NORM == NORM_SILU:
        x = x / (1.0 + tl.exp(-x))
    return x


@triton.jit
def _store_taps(out, earlier, latest, new, mask, CHANNELS: tl.constexpr):
    tl.store(out, earlier, mask=mask)
    tl.store(out + CHANNELS, latest, mask=mask)
    tl.store(out + 2 * CHANNELS, new, mask=mask)


@triton.jit
def sum_places(
    planes, bias, out, pixels, width, PLANE_FRAMES: tl.constexpr, TO_BYTES: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Every pixel's sum over what 27 places give it (`Rows.pixels`); program (piece of the picture, frame)."""
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    frame = tl.program_id(1)
    row = pixel // width
    column = pixel % width
    there = pixel < pixels
    height = pixels // width
    for colour in tl.static_range(3):
        total = tl.zeros((BLOCK,), tl.float32) + tl.load(bias + colour).to(tl.float32)
        for dt in tl.static_range(3):
            for dy in tl.static_range(3):
                for dx in tl.static_range(3):
                    inside = (row + dy >= 1) & (row + dy <= height) & (column + dx >= 1) & (column + dx <= width)
                    plane = ((dt * 3 + dy) * 3 + dx) * 3 + colour
                    offset = (plane * PLANE_FRAMES + frame + dt) * pixels + pixel + (dy - 1) * width + dx - 1
                    total += tl.load(planes + offset, mask=there & inside, other=0.0).to(tl.float32)
        total = tl.minimum(tl.maximum(total, -1.0), 1.0)
        if TO_BYTES:
            total = tl.minimum(tl.maximum((total + 1.0) / 2.0, 0.0), 1.0) * 255.0
        tl.store(out + (frame * pixels + pixel) * 3 + colour, total.to(out.dtype.element_ty), mask=there)
