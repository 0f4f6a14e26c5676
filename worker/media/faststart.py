"""Whether an MP4 can be played while it is still being downloaded. Knows the outermost boxes of the format only."""

import struct
from pathlib import Path


def top_level_boxes(path: Path) -> list[str]:
    """The four-letter names of the file's outermost boxes, in order. Raises ValueError for a file that has none."""
    names: list[str] = []
    size_of_file = path.stat().st_size
    position = 0
    with path.open("rb") as file:
        while position < size_of_file:
            file.seek(position)
            header = file.read(16)
            if len(header) < 8:
                raise ValueError("not an MP4: a box is cut off")
            size, name = struct.unpack(">I4s", header[:8])
            if size == 1:
                size = struct.unpack(">Q", header[8:16].ljust(8, b"\0"))[0]
            if size == 0:
                size = size_of_file - position  # the last box may reach to the end
            if size < 8 or not name.isascii():
                raise ValueError("not an MP4: a box without a size")
            names.append(name.decode("ascii"))
            position += size
    return names


def index_comes_first(path: Path) -> bool:
    names = top_level_boxes(path)
    return "moov" in names and "mdat" in names and names.index("moov") < names.index("mdat")
