"""What the API has to know of a preset beside its name. Knows numbers only; the networks are the worker's."""

from collections.abc import Mapping
from types import MappingProxyType

PICTURE_SIZES: Mapping[str, tuple[tuple[int, int], ...]] = MappingProxyType({"avatar": ((192, 192), (144, 192))})
"""Width and height in pixels of all that a preset can draw. One that is not here can draw any size."""
