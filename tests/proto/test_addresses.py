"""Addresses: HOST:PORT, [IPV6]:PORT and unix:PATH, and what is none of these."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swaptier_wire.addresses import Address


@pytest.mark.parametrize(
    ("text", "is_local"),
    [
        ("127.0.0.1:0", True),
        ("127.8.0.1:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("unix:/run/x", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("tier.example:1", False),
    ],
)
def test_an_address_knows_whether_only_this_machine_can_reach_it(text: str, is_local: bool) -> None:
    """A name other than localhost may be anything, so it is not local."""
    assert Address.parse(text).is_local == is_local


@given(st.text(max_size=40), st.booleans())
def test_an_address_is_parsed_or_refused_and_never_anything_else(text: str, allows_unix: bool) -> None:
    """Any text gives an address that can be taken apart, or a ValueError."""
    try:
        address = Address.parse(text, allows_unix=allows_unix)
    except ValueError:
        return
    assert address == text
    assert allows_unix or not address.is_unix
    if not address.is_unix:
        assert 0 <= address.port <= 65535
        assert address.with_port(7).port == 7


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("http://tier:1/x", "is a URL: leave http:// out, as in tier:1"),
        ("::1:50051", "as in [::1]:50051"),
        ("tier", "expected HOST:PORT with a port of 0 to 65535, or unix:PATH, got 'tier'"),
        ("tier:99999", "port of 0 to 65535"),
        (f"unix:/{'x' * 107}", "1 to 107 bytes, this one 108"),
    ],
)
def test_a_refused_address_says_what_was_expected(text: str, says: str) -> None:
    """In one line."""
    with pytest.raises(ValueError, match=re.escape(says)):
        Address.parse(text)


@pytest.mark.parametrize("text", ["\udcff:1", "unix:\udcff", "a\0b:1", "a..b:1", f"{'a' * 300}:1", f"a:{'9' * 5000}"])
def test_what_the_system_would_not_take_as_a_name_is_refused(text: str) -> None:
    """Before it is given to gRPC or to the resolver, which raise what names no flag."""
    with pytest.raises(ValueError, match=r"an address is text|no host can have the name|expected HOST:PORT"):
        Address.parse(text)
