"""Which epoch a client may start in, when the clock that it takes one from was once ahead.

Touches the network. For a program that starts, and only then: one that is refused later was replaced, and must stop.
"""

from collections.abc import Sequence

from swaptier_client.area_calls import AreaCalls, HostArea
from swaptier_client.channel import connect
from swaptier_client.connection import StreamSettings
from swaptier_wire.epochs import epoch_above
from swaptier_wire.errors import AreaNotOwned, ClientReplaced, UnknownArea
from swaptier_wire.types import EPOCH_MAX


async def epoch_above_known(address: str, areas: Sequence[HostArea], settings: StreamSettings) -> int:
    """Return the epoch of *areas*, all in the same, or one above all that the tier knows of their clients, by chance.

    Asks by calls that change nothing.

    Raises:
        SwapTierError: the tier does not answer, or refuses for another reason; or no epoch is above.
    """
    epoch = areas[0].client_epoch
    channel = await connect(address, settings.connect_seconds, settings.security)
    try:
        for area in areas:
            asked = area._replace(client_epoch=epoch)
            try:
                await AreaCalls(channel, asked, settings.deadline_seconds, settings.security.metadata()).stat()
            except ClientReplaced as refusal:
                if refusal.newest_epoch == EPOCH_MAX:
                    raise
                epoch = max(epoch, epoch_above(refusal.newest_epoch))
            except (UnknownArea, AreaNotOwned):
                continue
            else:
                epoch = epoch_above(epoch)  # another program is in this very epoch, by a clock that stands still
    finally:
        await channel.close()
    return epoch
