"""A person whom a detector of real faces finds, looking into the camera, of 480 × 640 pixels. Knows Pillow only."""

from PIL import Image, ImageDraw, ImageFilter

WIDTH, HEIGHT = 480, 640
SCALE = 4  # drawn larger and scaled down: smooth edges
SKIN, SKIN_SHADE, SKIN_LIGHT = (236, 190, 160), (214, 160, 130), (246, 208, 182)
HAIR, BROW = (66, 44, 36), (58, 38, 30)
LIP, LIP_LINE = (190, 92, 92), (120, 52, 56)
SHIRT, COLLAR = (46, 92, 128), (232, 236, 240)

Box = tuple[float, float, float, float]
Colour = tuple[int, int, int]


def draw_portrait() -> Image.Image:
    """A person who looks into the camera, in the middle of the upper half."""
    picture = _background()
    _shoulders(picture)
    ImageDraw.Draw(picture).rectangle(_box(204, 380, 276, 462), fill=SKIN_SHADE)
    _head(picture)
    for side in (-1, 1):
        _eye(picture, side)
    _nose(picture)
    _mouth(picture)
    return picture.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def _background() -> Image.Image:
    column = Image.new("RGB", (1, HEIGHT * SCALE))
    for y in range(HEIGHT * SCALE):
        fade = y / (HEIGHT * SCALE)
        column.putpixel((0, y), (round(206 - 60 * fade), round(222 - 50 * fade), round(232 - 36 * fade)))
    return column.resize((WIDTH * SCALE, HEIGHT * SCALE))


def _shoulders(picture: Image.Image) -> None:
    draw = ImageDraw.Draw(picture)
    draw.ellipse(_box(128, 104, 352, 400), fill=HAIR)
    draw.rounded_rectangle(_box(50, 470, 430, 760), radius=110 * SCALE, fill=SHIRT)
    draw.polygon(_points((186, 462), (240, 540), (294, 462), (310, 486), (240, 590), (170, 486)), fill=COLLAR)
    draw.polygon(_points((200, 450), (240, 530), (280, 450)), fill=SKIN_SHADE)


def _head(picture: Image.Image) -> None:
    draw = ImageDraw.Draw(picture)
    for left in (132, 328):
        draw.ellipse(_box(left, 268, left + 20, 326), fill=SKIN_SHADE)
    draw.ellipse(_box(144, 150, 336, 424), fill=SKIN)
    # the hair's upper half lies over the head, and the forehead over the hair
    draw.pieslice(_box(134, 108, 346, 388), 180, 360, fill=HAIR)
    draw.ellipse(_box(156, 180, 324, 424), fill=SKIN)
    draw.chord(_box(150, 132, 318, 236), 160, 352, fill=HAIR)
    _soft(picture, (190, 206, 290, 244), fill=SKIN_LIGHT, blur=10)
    for left in (164, 268):
        _soft(picture, (left, 318, left + 48, 350), fill=(238, 172, 150), blur=10)
    _soft(picture, (206, 396, 274, 414), fill=SKIN_SHADE, blur=6)
    # the hollows of the eyes are darker than the bridge of the nose between them
    for left in (170, 252):
        _soft(picture, (left, 250, left + 58, 294), fill=(208, 156, 130), blur=8)
    _soft(picture, (232, 240, 248, 320), fill=SKIN_LIGHT, blur=5)


def _eye(picture: Image.Image, side: int) -> None:
    centre = 240 + side * 42
    draw = ImageDraw.Draw(picture)
    draw.ellipse(_box(centre - 21, 262, centre + 21, 286), fill=(250, 250, 248))
    draw.ellipse(_box(centre - 11, 263, centre + 11, 285), fill=(72, 96, 92))
    draw.ellipse(_box(centre - 6, 268, centre + 6, 280), fill=(18, 18, 20))
    draw.ellipse(_box(centre + 2, 267, centre + 6, 271), fill=(255, 255, 255))
    draw.arc(_box(centre - 22, 259, centre + 22, 291), 195, 345, fill=(40, 26, 22), width=4 * SCALE)
    inner, outer = (centre - side * 24, 246), (centre + side * 26, 244)
    draw.line(_points(inner, (centre + side * 6, 236), outer), fill=BROW, width=8 * SCALE, joint="curve")


def _nose(picture: Image.Image) -> None:
    _soft(picture, (222, 318, 258, 342), fill=SKIN_SHADE, blur=4)
    _soft(picture, (231, 306, 249, 330), fill=SKIN_LIGHT, blur=4)
    draw = ImageDraw.Draw(picture)
    for centre in (231, 249):
        draw.ellipse(_box(centre - 4, 333, centre + 4, 339), fill=(168, 112, 92))


def _mouth(picture: Image.Image) -> None:
    draw = ImageDraw.Draw(picture)
    draw.polygon(_points((204, 368), (228, 361), (240, 364), (252, 361), (276, 368), (240, 378)), fill=LIP)
    draw.chord(_box(206, 346, 274, 388), 4, 176, fill=LIP)
    draw.arc(_box(200, 344, 280, 376), 20, 160, fill=LIP_LINE, width=3 * SCALE)


def _soft(picture: Image.Image, box: Box, *, fill: Colour, blur: float) -> None:
    """An ellipse without an edge."""
    mask = Image.new("L", picture.size)
    ImageDraw.Draw(mask).ellipse(_box(*box), fill=255)
    picture.paste(fill, (0, 0, *picture.size), mask.filter(ImageFilter.GaussianBlur(blur * SCALE)))


def _box(*corners: float) -> list[float]:
    return [corner * SCALE for corner in corners]


def _points(*points: tuple[float, float]) -> list[tuple[float, float]]:
    return [(x * SCALE, y * SCALE) for x, y in points]
