"""What one tenant is answered is the same whatever the others do, and a server where it is not is caught."""

import os
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from tests.server.isolation import machine as isolation_machine
from tests.server.isolation.machine import SLOTS, IsolationMachine

from swaptier_server.tier import shrinker
from swaptier_server.tier.account import Account, Accounts, Part
from swaptier_server.tier.area import Durability
from swaptier_server.tier.pool import Pool
from swaptier_server.tier.shrinker import ClosedAreas
from swaptier_server.tier.write_back import write_back_oldest

TestIsolation = IsolationMachine.TestCase
TestIsolation.settings = settings(max_examples=40, stateful_step_count=25, derandomize=True, deadline=None)


@pytest.mark.soak
def test_no_tenant_sees_the_others_in_any_of_many_runs() -> None:
    """As above, from a new seed each time; a failure says how it is repeated."""
    run_state_machine_as_test(
        IsolationMachine,
        settings=settings(
            max_examples=int(os.environ.get("SOAK_SECONDS", "300")) * 10,
            stateful_step_count=40,
            deadline=None,
            print_blob=True,
        ),
    )


# The negative control: each breaks a rule, and in the run beside it one tenant then sees another

EVERY_SLOT = dict.fromkeys(range(SLOTS), (1, "noise"))


def _begin(_machine: IsolationMachine) -> None:
    """Each tenant opens an area, which the machine begins with."""


def _keep_one_account_for_all(patch: pytest.MonkeyPatch) -> None:
    """What one tenant has counts for all."""
    opened, found = Accounts.open, Accounts.find
    patch.setattr(Accounts, "open", lambda accounts, _client_id: opened(accounts, "all|host"))
    patch.setattr(Accounts, "find", lambda accounts, _client_id: found(accounts, "all|host"))


def _store_in_a_full_pool(machine: IsolationMachine) -> None:
    """Two tenants take what they can get, then the third stores."""
    for tenant in ("bob", "cy"):
        machine.flood(tenant, "noise")
    machine.exchange("ada", "swap", EVERY_SLOT, {}, False, {}, True)


def _reserve_nothing(patch: pytest.MonkeyPatch) -> None:
    """Who comes first gets it."""
    patch.setattr(Part, "may_take", lambda part, amount: part.bound.used + amount <= part.bound.most)


def _refuse_all_when_full(patch: pytest.MonkeyPatch) -> None:
    """A pool that is full for one is full for all."""
    charge = Pool.charge

    def refuse(pool: Pool, account: Account, length: int) -> bool:
        return not pool.reached_full and charge(pool, account, length)

    patch.setattr(Pool, "charge", refuse)


def _fill_the_pool_and_shrink_it(machine: IsolationMachine) -> None:
    """One stores, the others take what they can get, and more, and the server makes room."""
    machine.exchange("ada", "swap", EVERY_SLOT, {}, False, {}, True)
    for tenant in ("bob", "cy"):
        machine.flood(tenant, "noise")
    machine.shrink()


def _shrink_whom_it_may_not(patch: pytest.MonkeyPatch) -> None:
    """A full pool writes back pages of a tenant that has borrowed nothing, too."""
    patch.setattr(shrinker, "_borrowed", lambda _pool, _area: 1)
    patch.setattr(shrinker, "write_back_oldest", lambda area, _bytes, pages: write_back_oldest(area, 1, pages))


def _close_one_after_another(machine: IsolationMachine) -> None:
    """Two store, and close their areas; one slot is forgotten at each closing."""
    for tenant in ("bob", "ada"):
        machine.exchange(tenant, "swap", EVERY_SLOT, {}, False, {}, True)
    for tenant in ("bob", "ada"):
        machine.swapoff(tenant, "swap", True)


def _forget_in_the_order_of_closing(patch: pytest.MonkeyPatch) -> None:
    """What a tenant closed stays charged to it until what others closed before is gone."""
    forget = ClosedAreas.forget
    patch.setattr(ClosedAreas, "forget", lambda closed, most, _tenant=None: forget(closed, most))


def _say_what_is_anothers(machine: IsolationMachine) -> None:
    """One tenant asks by what another's host and area are called on the server."""
    machine.meddle("ada", "bob", "host", "")


def _believe_a_qualified_name(patch: pytest.MonkeyPatch) -> None:
    """Who says another tenant's name is that tenant."""
    said = isolation_machine.qualified
    patch.setattr(isolation_machine, "qualified", lambda tenant, name: name if "|" in name else said(tenant, name))


RUNS = {
    _keep_one_account_for_all: _begin,
    _reserve_nothing: _store_in_a_full_pool,
    _refuse_all_when_full: _store_in_a_full_pool,
    _shrink_whom_it_may_not: _fill_the_pool_and_shrink_it,
    _forget_in_the_order_of_closing: _close_one_after_another,
    _believe_a_qualified_name: _say_what_is_anothers,
}


def go_through(run: Callable[[IsolationMachine], None]) -> None:
    """Have the machine do *run* and look."""
    machine = IsolationMachine()
    try:
        machine.begin(Durability.MEMORY, True)
        run(machine)
        machine.who_borrows_nothing_sees_nothing_of_the_others()
    finally:
        machine.teardown()


@pytest.mark.parametrize(("break_rule", "run"), RUNS.items())
def test_a_server_that_breaks_a_rule_is_caught(
    break_rule: Callable[[pytest.MonkeyPatch], None], run: Callable[[IsolationMachine], None]
) -> None:
    """By a run that finds nothing in the server as it is."""
    go_through(run)
    with pytest.MonkeyPatch.context() as patch:
        break_rule(patch)
        with pytest.raises(AssertionError):
            go_through(run)
