"""What the tests of the dashboard's pages read out of HTML."""

import re

import httpx


def hidden(page: httpx.Response, name: str) -> str:
    """The value of a form's hidden field."""
    found = re.search(rf'name="{name}" value="([^"]+)"', page.text)
    assert found, page.text
    return found[1]
