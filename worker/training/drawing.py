"""Portraits and talking heads, drawn from faces and mouth tracks, on any device and many at once.

Knows how a face looks; not where its numbers come from. Head and room stand still and are drawn once for each clip;
only mouth and eyes are drawn anew for every frame.

Shapes: B clips, T frames, h x w pixels of a part, H x W of the picture. Colours run from 0 to 1 until the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.training.faces import EYE_BOX, MOUTH_BOX, TEETH, TONGUE, Background, Face, Frame, Glasses, Hair
from worker.training.shapes import Canvas, paint
from worker.training.visemes import OPEN, WIDTH
from worker.training.visemes import TEETH as TEETH_SEEN
from worker.training.visemes import TONGUE as TONGUE_SEEN

_SPREAD, _ROUNDED = 0.20, 0.42
"""Share of its width at rest by which a mouth grows when spread, and shrinks when rounded."""
_UPPER = 0.4
"""Of the opening that lies above the line of the closed lips."""
_THIN = 0.004
"""Least half height of an opening; below it the opening fades instead."""


class Faces:
    """The numbers of several faces as tensors: scalars [B, 1, 1], colours [B, 3]."""

    def __init__(self, faces: Sequence[Face], *, device: torch.device) -> None:
        self.count = len(faces)
        self.device = device
        self._values: dict[str, Tensor] = {}
        for field in fields(Face):
            rows = [np.asarray(getattr(face, field.name), dtype=np.float32).reshape(-1) for face in faces]
            self._values[field.name] = torch.from_numpy(np.stack(rows)).to(device)

    def number(self, name: str, place: int = 0) -> Tensor:
        """[B, 1, 1]."""
        return self._values[name][:, place, None, None]

    def colour(self, name: str, place: int = 0) -> Tensor:
        """[B, 3]."""
        return self._values[name][:, 3 * place : 3 * place + 3]

    def which(self, name: str, kind: int) -> Tensor:
        """1 for the faces of a kind, else 0; [B, 1, 1]."""
        return (self.number(name) == kind).float()


def opening(faces: Sequence[Face], tracks_BTK: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the pictures show between the lips, in squared units, [B, T]: the truth that readings are held to."""
    drawn = Faces(faces, device=torch.device("cpu"))
    half_width, height = _lips(drawn, torch.from_numpy(tracks_BTK).float())
    return (math.pi / 2 * half_width * height)[..., 0, 0].numpy()


def portrait(face: Face, frame: Frame) -> NDArray[np.uint8]:
    """One picture with the mouth closed and the eyes open, uint8 [H, W, 3]."""
    still, lids = np.zeros((1, 1, 4), dtype=np.float32), np.zeros((1, 1), dtype=np.float32)
    clip = draw([face], frame, tracks_BTK=torch.from_numpy(still), lids_BT=torch.from_numpy(lids))
    return to_uint8(clip[0])[0].numpy()


def to_uint8(clip_T3HW: Tensor) -> Tensor:
    """[T, H, W, 3], rounded."""
    return (clip_T3HW * 255).round().clamp(0, 255).to(torch.uint8).movedim(-3, -1)


def draw(people: Sequence[Face], frame: Frame, *, tracks_BTK: Tensor, lids_BT: Tensor) -> Tensor:
    """Clips [B, T, 3, H, W] on the device of the tracks; `lids` are 0 for open eyes and 1 for closed ones."""
    device = tracks_BTK.device
    faces = Faces(people, device=device)
    whole = Canvas.of(frame, (0, 0, frame.width, frame.height), device=device)
    still_B3HW = _person(faces, whole, _room(faces, whole))
    glasses_BHW = _glasses(faces, whole)
    clip = still_B3HW[:, None].repeat(1, tracks_BTK.shape[1], 1, 1, 1)
    left, top, right, bottom = box = frame.box(EYE_BOX)
    eyes = Canvas.of(frame, box, device=device)
    clip[..., top:bottom, left:right] = _draw_eyes(faces, eyes, still_B3HW[:, None, :, top:bottom, left:right], lids_BT)
    left, top, right, bottom = box = frame.box(MOUTH_BOX)
    mouth = Canvas.of(frame, box, device=device)
    clip[..., top:bottom, left:right] = _draw_mouth(
        faces, mouth, still_B3HW[:, None, :, top:bottom, left:right], tracks_BTK
    )
    return paint(clip, glasses_BHW[:, None], faces.colour("glasses_colour")[:, None])


def _room(faces: Faces, canvas: Canvas) -> Tensor:
    one, other = (faces.colour("background_colours", place) for place in (0, 1))
    plain = one[..., None, None].expand(-1, -1, *canvas.x.shape)
    down = ((canvas.y - canvas.y.min()) / (canvas.y.max() - canvas.y.min())).expand(faces.count, -1, -1)
    disc = canvas.ellipse(0.0, -0.05, canvas.x.new_full((1, 1, 1), 0.52), canvas.x.new_full((1, 1, 1), 0.52))
    shade = down * faces.which("background", Background.GRADIENT) + disc * faces.which("background", Background.DISC)
    return paint(plain, shade, other)


def _person(faces: Faces, canvas: Canvas, picture: Tensor) -> Tensor:
    """Everything that stands still, but for the glasses."""
    number, skin, hair = faces.number, faces.colour("skin"), faces.colour("hair_colour")
    wide, high, jaw = number("head"), number("head", 1), number("chin")
    shade = skin * 0.86

    def constant(value: float) -> Tensor:
        return canvas.x.new_full((1, 1, 1), value)

    long = canvas.box(0.0, 0.10, wide + 0.07, high + 0.08, 0.3) * faces.which("hair", Hair.LONG)
    bun = canvas.ellipse(0.0, -high - 0.02, constant(0.12), constant(0.10)) * faces.which("hair", Hair.BUN)
    picture = paint(picture, torch.maximum(long, bun), hair)
    picture = paint(picture, canvas.box(0.0, 0.48, wide * 0.45, constant(0.25), 0.05), shade)
    shoulders = canvas.ellipse(0.0, 0.85, constant(0.50), constant(0.33))
    picture = paint(picture, shoulders, faces.colour("shirt"))
    collar = canvas.line(canvas.to_ellipse(0.0, 0.50, wide * 0.62, constant(0.11)), 0.016)
    picture = paint(picture, collar * shoulders, faces.colour("collar"))
    for side in (-1.0, 1.0):
        ear = canvas.ellipse(side * wide, 0.02, number("ears"), number("ears") * 1.4)
        picture = paint(picture, ear, shade)
    head = torch.minimum(canvas.to_ellipse(0.0, 0.0, wide, high), canvas.to_ellipse(0.0, 0.20, jaw + 0.02, high - 0.14))
    picture = paint(picture, canvas.cover(head), skin)
    for side in (-1.0, 1.0):
        glow = (-((canvas.x - side * wide * 0.6) ** 2 + (canvas.y - 0.15) ** 2) / 0.004).exp() * number("cheeks")
        picture = paint(picture, glow, skin * skin.new_tensor((1.0, 0.72, 0.70)))
    picture = _hair(faces, canvas, picture)
    height, thick, slant = (number("brow", place) for place in range(3))
    for side in (-1.0, 1.0):
        away = canvas.x - side * number("eye_distance")
        middle = -height + slant * side * away / 0.08 + 2.5 * away.square()
        brow = canvas.cover(torch.maximum((canvas.y - middle).abs() - thick, away.abs() - 0.075))
        picture = paint(picture, brow, faces.colour("brow_colour"))
    nose = canvas.ellipse(0.0, number("nose", 1), number("nose"), number("nose") * 0.7)
    return paint(picture, nose, skin * 0.9)


def _hair(faces: Faces, canvas: Canvas, picture: Tensor) -> Tensor:
    """What lies before the head."""
    wide, high = faces.number("head"), faces.number("head", 1)
    cap = canvas.ellipse(0.0, -0.01, wide + 0.03, high + 0.04)
    curved = canvas.above(-0.27 + 1.8 * canvas.x.square())
    straight = canvas.above((-0.19 + 0.6 * canvas.x.square()).expand_as(canvas.x))
    parts = [
        (faces.which("hair", Hair.SHORT) + faces.which("hair", Hair.BUN) + faces.which("hair", Hair.LONG))
        * cap
        * curved,
        faces.which("hair", Hair.FRINGE) * cap * straight,
    ]
    for place in range(9):
        angle = math.pi * (1.0 + place / 8)
        size = canvas.x.new_full((1, 1, 1), 0.085)
        curl = canvas.ellipse(math.cos(angle) * wide, math.sin(angle) * (high - 0.02) - 0.02, size, size)
        parts.append(faces.which("hair", Hair.CURLS) * curl)
    return paint(picture, torch.stack(parts).amax(0), faces.colour("hair_colour"))


def _glasses(faces: Faces, canvas: Canvas) -> Tensor:
    """Coverage of the frames, [B, H, W]."""
    place = faces.number("eye_distance")
    size = canvas.x.new_full((1, 1, 1), 0.10)
    rims = []
    for side in (-1.0, 1.0):
        rounded = canvas.line(canvas.to_ellipse(side * place, -0.01, size, size), 0.009)
        square = canvas.line(canvas.to_box(side * place, -0.01, size + 0.01, size * 0.75, 0.02), 0.009)
        rims.append(rounded * faces.which("glasses", Glasses.ROUND) + square * faces.which("glasses", Glasses.SQUARE))
    worn = 1 - faces.which("glasses", Glasses.NONE)
    bridge = canvas.cover(torch.maximum((canvas.y + 0.01).abs() - 0.008, canvas.x.abs() - (place - size)))
    return torch.stack((*rims, bridge * worn)).amax(0)


def _draw_eyes(faces: Faces, canvas: Canvas, part_B13hw: Tensor, lids_BT: Tensor) -> Tensor:
    """Both eyes for every frame, [B, T, 3, h, w]."""
    wide, high = faces.number("eye_size"), faces.number("eye_size", 1)
    white = part_B13hw.new_tensor((0.97, 0.97, 0.97)).expand(faces.count, 3)
    black = part_B13hw.new_tensor((0.05, 0.04, 0.05)).expand(faces.count, 3)
    picture = part_B13hw[:, 0]
    both_BThw = part_B13hw.new_zeros(())
    lash_BThw = part_B13hw.new_zeros(())
    for side in (-1.0, 1.0):
        middle = side * faces.number("eye_distance")
        eye = canvas.ellipse(middle, -0.01, wide, high)
        iris, pupil, glint = (
            canvas.ellipse(middle + at, -0.01 - at, high * size, high * size)
            for at, size in ((0.0, 0.72), (0.0, 0.36), (0.012, 0.16))
        )
        for cover, colour in ((eye, white), (iris * eye, faces.colour("iris")), (pupil * eye, black), (glint, white)):
            picture = paint(picture, cover, colour)
        edge_BT11 = -0.01 - high[:, None] + 2 * high[:, None] * lids_BT[..., None, None]
        both_BThw = torch.maximum(both_BThw, eye[:, None] * canvas.above(edge_BT11) * (lids_BT > 0)[..., None, None])
        stroke = canvas.line(canvas.to_ellipse(middle, -0.01, wide, high), 0.006) * canvas.above(-0.01 - high * 0.2)
        rim = eye[:, None] * canvas.line(canvas.y - edge_BT11, 0.008) * (lids_BT > 0)[..., None, None]
        lash_BThw = torch.maximum(lash_BThw, torch.maximum(stroke[:, None].expand_as(rim), rim))
    clip = paint(
        picture[:, None].expand(-1, lids_BT.shape[1], -1, -1, -1), both_BThw, faces.colour("skin")[:, None] * 0.9
    )
    return paint(clip, lash_BThw, black[:, None])


def _draw_mouth(faces: Faces, canvas: Canvas, part_B13hw: Tensor, tracks_BTK: Tensor) -> Tensor:
    """Lips, and what is between them, for every frame, [B, T, 3, h, w]."""
    half_width, height = _lips(faces, tracks_BTK)
    middle = faces.number("mouth_y")[:, None]
    thickness = faces.number("lip_thickness")[:, None] * (1 - 0.25 * tracks_BTK[..., WIDTH, None, None].clamp(-1, 1))
    is_above = canvas.y < middle
    reach = torch.where(is_above, _UPPER * height, (1 - _UPPER) * height)
    lips = canvas.ellipse(
        0.0, middle, half_width + 0.6 * thickness, reach + thickness * torch.where(is_above, 0.9, 1.2)
    )
    seam = canvas.ellipse(0.0, middle, half_width, thickness.new_full((1, 1, 1, 1), 0.006))
    inside = canvas.ellipse(0.0, middle, half_width, reach.clamp_min(_THIN)) * (height / (2 * _THIN)).clamp(0, 1)
    teeth_edge = middle - _UPPER * height + tracks_BTK[..., TEETH_SEEN, None, None] * (0.012 + 0.22 * height)
    teeth = inside * canvas.above(teeth_edge) * (tracks_BTK[..., TEETH_SEEN, None, None] * 4).clamp(0, 1)
    tongue = inside * canvas.ellipse(
        0.0, middle + (1 - _UPPER) * height, 0.7 * half_width, (0.45 * height).clamp_min(_THIN)
    )
    clip = paint(part_B13hw, lips, faces.colour("lips")[:, None])
    clip = paint(clip, seam, faces.colour("lips")[:, None] * 0.6)
    clip = paint(clip, inside, faces.colour("inside")[:, None])
    clip = paint(clip, tongue * tracks_BTK[..., TONGUE_SEEN, None, None].clamp(0, 1), clip.new_tensor(TONGUE))
    return paint(clip, teeth, clip.new_tensor(TEETH))


def _lips(faces: Faces, tracks_BTK: Tensor) -> tuple[Tensor, Tensor]:
    """Half the width and the whole height of the opening, [B, T, 1, 1] each."""
    width = tracks_BTK[..., WIDTH, None, None]
    stretch = 1 + torch.where(width > 0, _SPREAD, _ROUNDED) * width
    height = 2 * faces.number("mouth_height")[:, None] * tracks_BTK[..., OPEN, None, None].clamp(0, 1)
    return faces.number("mouth_width")[:, None] * stretch, height
