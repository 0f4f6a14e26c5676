"""The Range header for one range of bytes (RFC 9110, section 14). Knows header values only."""

import re
from dataclasses import dataclass

_ONE_RANGE = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*")


class UnsatisfiableError(ValueError):
    """The range lies beyond the end of the object."""


@dataclass(frozen=True)
class ByteRange:
    """Bytes `first` to `last`, both included."""

    first: int
    last: int

    @property
    def length(self) -> int:
        return self.last - self.first + 1


def parse_range(header: str | None, *, size: int) -> ByteRange | None:
    """The part asked for; None: the whole object. A header that is malformed, or asks for several ranges, asks for the
    whole, as the standard permits. Raises UnsatisfiableError."""
    match = None if header is None else _ONE_RANGE.fullmatch(header)
    if match is None or match[1] == match[2] == "":
        return None
    if match[1] == "":
        wanted = min(int(match[2]), size)
        if wanted == 0:
            raise UnsatisfiableError
        return ByteRange(size - wanted, size - 1)
    first = int(match[1])
    last = min(int(match[2]), size - 1) if match[2] else size - 1
    if match[2] and int(match[2]) < first:
        return None
    if first >= size:
        raise UnsatisfiableError
    return ByteRange(first, last)
