"""The policies are data; what their fields promise of each other."""

from dataclasses import FrozenInstanceError

import pytest

from swaptier_client.mm.policy import DEFAULT_POLICY, ERAS, POLICIES, Policy, PoolLookup
from swaptier_wire.types import LoadMode


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_is_filed_under_its_name_and_cannot_change(name: str) -> None:
    """Names are the public interface."""
    policy = POLICIES[name]
    assert policy.name == name and policy.origin and policy.effect
    with pytest.raises(FrozenInstanceError):
        policy.is_safe = True  # type: ignore[misc]  # that it cannot be set is the claim


@pytest.mark.parametrize("policy", POLICIES.values(), ids=lambda policy: policy.name)
def test_a_policy_is_safe_exactly_if_no_failed_install_and_no_reuse_can_take_a_page(policy: Policy) -> None:
    """A bypass needs the pin, and must leave a copy: in the tier, in the swapcache, or put back."""
    leaves_a_copy = (
        policy.bypass_mode is not LoadMode.EXCLUSIVE or policy.pool_lookup is PoolLookup.AFTER_PIN or policy.stores_back
    )
    assert policy.is_safe == (not policy.bypasses_swapcache or (policy.pins and leaves_a_copy))


def test_the_merged_fix_is_the_default_and_the_seed_is_one_field_away() -> None:
    """25cd241408a2 changed one thing: what a load that bypasses the swapcache leaves behind."""
    seed = POLICIES["exclusive"]
    assert DEFAULT_POLICY is POLICIES["exclusive-if-swapcache"]
    assert (seed.bypass_mode, DEFAULT_POLICY.bypass_mode) == (LoadMode.EXCLUSIVE, LoadMode.SHARED)
    assert seed.swapcache_mode is DEFAULT_POLICY.swapcache_mode is LoadMode.EXCLUSIVE
    assert seed.pins and DEFAULT_POLICY.pins


def test_every_era_is_a_policy_of_the_table() -> None:
    """So that a kernel version can be asked for wherever a policy can."""
    assert set(ERAS.values()) <= set(POLICIES.values())
    assert [policy.is_safe for policy in ERAS.values()] == [False, False, False, True, True]
