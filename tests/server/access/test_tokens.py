"""The token file: what it lets in, what it refuses, and what it never tells."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swaptier_server.access.tokens import TOKENS_MAX, Holder, TokensUnusable, hash_token, parse_tokens

TOKEN = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4


def test_a_hashed_token_lets_its_tenant_in_and_no_other_token_does() -> None:
    """The line that hash-token writes is the line that the file needs."""
    tokens = parse_tokens(f"# ours\n\n  {hash_token('alice', TOKEN)}  \n{hash_token('bob', OTHER)}\r\n")
    holder = tokens.holder(TOKEN)
    assert holder is not None
    assert holder.tenant == "alice"
    assert tokens.tenants == ["alice", "bob"]
    for wrong in ("", TOKEN[:-1], TOKEN + "0", TOKEN.upper(), "alice", hash_token("alice", TOKEN).partition(":")[2]):
        assert tokens.holder(wrong) is None


def test_a_tenant_can_have_two_tokens_while_one_replaces_the_other() -> None:
    """Rotation without a gap: both let in, and a withdrawn one is told from the one that stays."""
    both = parse_tokens(f"{hash_token('alice', TOKEN)}\n{hash_token('alice', OTHER)}")
    first, second = both.holder(TOKEN), both.holder(OTHER)
    assert first is not None and second is not None
    assert first.tenant == second.tenant == "alice"
    later = parse_tokens(hash_token("alice", OTHER))
    assert later.knows(second)
    assert not later.knows(first)


def test_a_token_that_changes_hands_is_withdrawn_from_its_first_holder() -> None:
    """The same token for another tenant is another holder."""
    assert not parse_tokens(hash_token("bob", TOKEN)).knows(Holder("alice", hashlib.sha256(TOKEN.encode()).digest()))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "there is no token in it"),
        ("# alice\n", "there is no token in it"),
        (f"alice:{TOKEN[:63]}", "line 1 is not NAME:SHA256"),
        (f"\nalice:{TOKEN}00", "line 2 is not NAME:SHA256"),
        (TOKEN, "line 1 is not NAME:SHA256"),
        (f":{TOKEN}", "line 1 is not NAME:SHA256"),
        (f"a|b:{TOKEN}", "line 1 is not NAME:SHA256"),
        (f"{'a' * 65}:{TOKEN}", "line 1 is not NAME:SHA256"),
        (f"alice:{TOKEN}\nbob:{TOKEN}", "line 2 gives the token of another line to another tenant"),
        ("\n".join(f"t{n}:{n:064x}" for n in range(TOKENS_MAX + 1)), f"more than {TOKENS_MAX} tokens"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_its_line(text: str, says: str) -> None:
    """One line, which says where, and repeats nothing that may be a token."""
    with pytest.raises(TokensUnusable) as caught:
        parse_tokens(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert TOKEN[:16] not in str(caught.value)


@pytest.mark.parametrize(
    ("tenant", "token"),
    [
        ("alice", ""),
        ("alice", "short"),
        ("alice", "x" * 31),
        ("alice", "x" * 1025),
        ("alice", "two words".ljust(40, "x")),
        ("alice", "é" * 40),
        ("", TOKEN),
        ("a b", TOKEN),
        ("a:b", TOKEN),
    ],
)
def test_what_could_be_guessed_or_not_travel_is_not_hashed(tenant: str, token: str) -> None:
    """A short token could be found from its hash; the refusal does not repeat it."""
    with pytest.raises(TokensUnusable) as caught:
        hash_token(tenant, token)
    assert not token or token not in str(caught.value)


@given(st.text(), st.text())
def test_any_text_is_tokens_or_a_refusal_and_any_token_a_holder_or_none(text: str, token: str) -> None:
    """Nothing else comes out, and nobody gets in by accident."""
    try:
        tokens = parse_tokens(text)
    except TokensUnusable:
        tokens = parse_tokens(hash_token("alice", TOKEN))
    assert token == TOKEN or tokens.holder(token) is None
