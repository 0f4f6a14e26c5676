"""The Range header, for every range of small objects."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.ranges import ByteRange, UnsatisfiableError, parse_range


@given(size=st.integers(1, 50), first=st.integers(0, 60), last=st.integers(0, 60))
def test_a_range_is_what_slicing_gives(size: int, first: int, last: int) -> None:
    whole = bytes(range(size))
    if last < first:
        assert parse_range(f"bytes={first}-{last}", size=size) is None
    elif first >= size:
        with pytest.raises(UnsatisfiableError):
            parse_range(f"bytes={first}-{last}", size=size)
    else:
        part = parse_range(f"bytes={first}-{last}", size=size)
        assert part is not None
        assert whole[part.first : part.last + 1] == whole[first : last + 1]
        assert part.length == len(whole[first : last + 1])


@given(size=st.integers(0, 50), suffix=st.integers(0, 60))
def test_a_suffix_is_what_slicing_gives(size: int, suffix: int) -> None:
    whole = bytes(range(size))
    if suffix == 0 or size == 0:
        with pytest.raises(UnsatisfiableError):
            parse_range(f"bytes=-{suffix}", size=size)
    else:
        part = parse_range(f"bytes=-{suffix}", size=size)
        assert part is not None
        assert whole[part.first : part.last + 1] == whole[-suffix:]


@given(header=st.one_of(st.none(), st.text()), size=st.integers(0, 50))
def test_nothing_in_the_header_leads_beyond_the_object(header: str | None, size: int) -> None:
    try:
        part = parse_range(header, size=size)
    except UnsatisfiableError:
        return
    assert part is None or (isinstance(part, ByteRange) and 0 <= part.first <= part.last < size)
