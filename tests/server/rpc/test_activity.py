"""Which areas are forgotten when their client is gone, and which are not."""

import pytest
from tests.server.conftest import Clock, Serve, header_message

from swaptier.v1 import swaptier_pb2 as pb
from swaptier_server.rpc.activity import ClientActivity, StreamActivity
from swaptier_server.tier.swap_file import Client
from swaptier_wire.checksum import page_checksum
from swaptier_wire.types import ZERO_PAGE

HOST = Client("host", 1)
OTHER = Client("other", 1)
IDLE_NS = 100


def expired(activity: ClientActivity, now_ns: int) -> list[str]:
    return activity.expired_areas({"a": HOST, "b": OTHER}, now_ns, IDLE_NS)


def test_an_area_expires_when_its_client_was_silent_for_the_whole_time() -> None:
    """At the end of the time, not before; another client's silence is its own."""
    activity = ClientActivity()
    activity.touch(HOST, 0)
    activity.touch(OTHER, 50)
    assert expired(activity, 99) == []
    assert expired(activity, 100) == ["a"]
    assert expired(activity, 150) == ["a", "b"]


def test_an_open_stream_keeps_all_areas_of_its_client() -> None:
    """However long nothing is asked; from its end the time runs anew."""
    activity = ClientActivity()
    activity.touch(OTHER, 10_000)
    activity.open_stream(HOST, 0)
    activity.open_stream(HOST, 0)
    activity.close_stream(HOST, 5)
    assert expired(activity, 10_000) == []
    activity.close_stream(HOST, 10_000)
    assert expired(activity, 10_099) == []
    assert expired(activity, 10_100) == ["a", "b"]


def test_a_new_life_of_a_host_does_not_live_on_the_streams_of_its_old_one() -> None:
    """An epoch is a client of its own."""
    activity = ClientActivity()
    activity.open_stream(HOST, 0)
    reborn = Client("host", 2)
    activity.touch(reborn, 0)
    assert activity.expired_areas({"a": reborn}, IDLE_NS, IDLE_NS) == ["a"]


def test_a_stream_speaks_for_the_client_of_its_latest_message() -> None:
    """Changing the client moves the stream, ending it ends it."""
    clock = Clock()
    clock.ns = 0
    activity = ClientActivity()
    with StreamActivity(activity, clock) as speaker:
        speaker.speak_for(HOST)
        speaker.speak_for(HOST)
        clock.ns = 1000
        speaker.speak_for(OTHER)
        clock.ns = 1100
        assert expired(activity, clock.ns) == ["a"]
    assert expired(activity, 1200) == ["a", "b"]


def test_clients_without_areas_and_streams_are_forgotten() -> None:
    """The table cannot grow with the number of clients that ever came."""
    activity = ClientActivity()
    for number in range(100):
        activity.touch(Client("host", number), 0)
    activity.open_stream(OTHER, 0)
    activity.forget_strangers({"a": Client("host", 5)})
    assert len(activity) == 2


async def test_the_reaper_forgets_idle_areas_and_counts_them(serve: Serve) -> None:
    """An area whose client asked something lately stays; one that expired is gone with its pages."""
    served = await serve(area_idle_seconds=300)
    await served.swapon("a", client="host")
    await served.swapon("b", client="other")
    batch = pb.StoreBatch(offsets=[0], generations=[1], checksums=[page_checksum(ZERO_PAGE)], pages=ZERO_PAGE)
    await served.stub.Store(pb.StoreRequest(header=header_message("a"), batch=batch))
    served.clock.advance(200)
    assert list(served.server.housekeeper.reap_idle_areas()) == []
    await served.stat("b", client="other")
    served.clock.advance(100)
    assert list(served.server.housekeeper.reap_idle_areas()) == ["a"]
    assert list(served.server.tier.areas) == ["b"]
    assert served.server.housekeeper.areas_expired == 1
    assert len(served.server.activity) == 1


async def test_the_reaper_leaves_a_client_that_only_holds_its_stream(serve: Serve) -> None:
    """A host without faults is not gone."""
    served = await serve(area_idle_seconds=300)
    await served.swapon()
    call = served.stub.Exchange()
    await call.write(pb.ExchangeRequest(header=header_message(), lookup=pb.LookupBatch(offsets=[0])))
    await call.read()
    served.clock.advance(10_000)
    assert list(served.server.housekeeper.reap_idle_areas()) == []


@pytest.mark.parametrize("seconds", [0, 1])
async def test_the_house_is_kept_free_of_idle_areas_unless_that_is_switched_off(serve: Serve, seconds: float) -> None:
    """--area-idle-seconds 0 keeps areas for ever."""
    served = await serve(area_idle_seconds=seconds)
    await served.swapon()
    served.clock.advance(1e6)
    served.server.housekeeper.keep_house()
    assert ("a" in served.server.tier.areas) == (seconds == 0)
