"""What a client knows of its cluster: the map, a block of ids, and lanes to its devices.

Invariants:
- The map's epoch never goes back, and the map is of the cluster that was met first.
- Each id is handed out once, and none from a block that is older than the catalog said it is good for, counted by
  the monotonic clock from before the block was asked for.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from reedbed.client.background import Background
from reedbed.client.flight import SingleFlight
from reedbed.client.link import CatalogLink
from reedbed.common.checksums import Buffer
from reedbed.common.clock import Clock, Deadline
from reedbed.common.errors import InvalidArgument, ReedbedError, Unavailable, WrongCluster
from reedbed.common.ids import Id, IdBlock
from reedbed.common.metrics import Metrics
from reedbed.ec.profiles import Profile
from reedbed.extents.latency import LatencyBook
from reedbed.protos import catalog_pb2, methods
from reedbed.protos.convert import change_from_message
from reedbed.protos.types import ClusterMap, Device
from reedbed.transport.lane import Reply

_SHARED_CALL_S: Final = 30.0  # bound of a call that several operations wait for, each with its own deadline
_RENEW_PAUSE_S: Final = 1.0  # after a renewal that brought nothing, or failed
_LEASE_PART: Final = 0.8  # of the time that a block is good for; the rest is for the commit to arrive


class IdBlocks:
    """Fresh ids from leased blocks."""

    def __init__(self, link: CatalogLink, clock: Clock) -> None:
        self._link = link
        self._clock = clock
        self._block: IdBlock | None = None
        self._good_until = 0.0
        self._flight: SingleFlight[None] = SingleFlight("leasing ids", self._lease, link.endpoint)

    async def take(self, deadline: Deadline) -> Id:
        """An id that nobody else has. Raises what the catalog does."""
        while True:
            id_ = self.at_hand()
            if id_ is not None:
                return id_
            await self._flight.join(deadline)

    def at_hand(self) -> Id | None:
        """`take` where nothing has to be leased."""
        block = self._block
        if block is not None and block.left and self._clock.monotonic() < self._good_until:
            return block.take()
        return None

    async def _lease(self) -> None:
        asked = self._clock.monotonic()
        reply = await self._link.call(
            methods.LEASE_IDS, catalog_pb2.LeaseRequest(), catalog_pb2.LeaseReply, Deadline(_SHARED_CALL_S, self._clock)
        )
        self._block = IdBlock(reply.prefix, reply.count)
        self._good_until = asked + _LEASE_PART * reply.good_for_ms / 1000

    async def close(self) -> None:
        await self._flight.close()


class ClusterClient:
    """The cluster as the extents room wants to see it. Only within the store's event loop."""

    def __init__(
        self, link: CatalogLink, background: Background, clock: Clock, metrics: Metrics, rng: random.Random
    ) -> None:
        self.link = link
        self.clock = clock
        self.metrics = metrics
        self.rng = rng
        self.latency = LatencyBook()
        self.ids = IdBlocks(link, clock)
        self._background = background
        self._map: ClusterMap | None = None
        self._log_position = (0, 0)
        self._profiles: set[tuple[int, int]] = set()  # that the map has PGs for
        self._newest_epoch = 0  # that anybody told of
        self._renewing = False
        self._renew_after = 0.0
        self._flight: SingleFlight[None] = SingleFlight("asking for the cluster map", self._fetch, link.endpoint)
        link.on_newer_epoch = self._newer_epoch

    @property
    def map(self) -> ClusterMap:
        """The newest map at hand; only after `ready`."""
        assert self._map is not None, "the map is used before it was asked for"
        return self._map

    async def ready(self, deadline: Deadline) -> ClusterMap:
        """The map as far as it is known; asked for on first use."""
        while self._map is None:
            await self._flight.join(deadline)
        return self._map

    async def refresh(self, newer_than: int, deadline: Deadline) -> ClusterMap:
        """A map newer than that epoch, or the one that the catalog had after this call began."""
        if self._flight.running:  # it may have been answered already, with an older map
            await self._flight.join(deadline)
        if self._map is None or self._map.epoch <= newer_than:
            await self._flight.join(deadline)
        return await self.ready(deadline)

    async def map_with(self, profile: Profile, deadline: Deadline) -> ClusterMap:
        """A map that has PGs for the profile; they are made if this is its first use.

        InvalidArgument where the cluster has fewer devices or domains than the profile has positions.
        """
        map_ = await self.ready(deadline)
        if (profile.k, profile.m) in self._profiles:
            return map_
        request = catalog_pb2.EnsureProfileRequest(profile=profile.name)
        self._apply(
            await self.link.call(methods.ENSURE_PROFILE, request, catalog_pb2.MapDelta, deadline, effect="same")
        )
        if (profile.k, profile.m) not in self._profiles:
            # the answer may be a change to a map that we no longer have
            await self.refresh(map_.epoch, deadline)
        if (profile.k, profile.m) not in self._profiles:
            raise Unavailable(f"the cluster has no placement group for {profile}", where=self.link.endpoint)
        return self.map

    def has_groups(self, profile: Profile) -> bool:
        """Whether the map at hand has PGs for the profile."""
        return (profile.k, profile.m) in self._profiles

    async def call(
        self,
        device: Device,
        method: str,
        header: bytes,
        payload: Sequence[Buffer] = (),
        *,
        deadline: Deadline,
        into: memoryview | None = None,
    ) -> Reply:
        """One call to the storaged that serves a device."""
        lane = await self.link.pool.lane(device.address, deadline=deadline, cluster=self.link.cluster)
        reply = await lane.call(method, header, payload, deadline=deadline, into=into, epoch=self.link.epoch)
        self.link.saw(reply.epoch, reply.term)
        return reply

    async def new_id(self, deadline: Deadline) -> Id:
        return await self.ids.take(deadline)

    def log_position(self) -> tuple[int, int]:
        """The newest log entry that this client has seen; shards carry it for a rebuilding of the catalog."""
        return self._log_position

    def saw_log(self, term: int, seq: int) -> None:
        self._log_position = max(self._log_position, (term, seq))

    async def close(self) -> None:
        await self.ids.close()
        await self._flight.close()

    def _newer_epoch(self, epoch: int) -> None:
        self._newest_epoch = max(self._newest_epoch, epoch)
        if self._map is None or self._renewing or self._background.closed:
            return  # before first use there is no map to renew
        if self.clock.monotonic() >= self._renew_after:
            self._renewing = True
            self._background.start(self._renew(), "renewing the cluster map")

    async def _renew(self) -> None:
        deadline = Deadline(_SHARED_CALL_S, self.clock)
        try:
            for _ in range(2):  # the first may join a call that was answered before the change
                if self.map.epoch < self._newest_epoch:
                    await self._flight.join(deadline)
        except ReedbedError:
            # whoever needs the map asks again and gets the error; here nobody waits
            self.metrics.add("map.renewals_failed")
        finally:
            self._renewing = False
            if self.map.epoch < self._newest_epoch:
                self._renew_after = self.clock.monotonic() + _RENEW_PAUSE_S

    async def _fetch(self) -> None:
        deadline = Deadline(_SHARED_CALL_S, self.clock)
        request = catalog_pb2.MapRequest(epoch=self._map.epoch if self._map else 0)
        reply = await self.link.call(methods.GET_MAP, request, catalog_pb2.MapDelta, deadline)
        if not self._apply(reply):
            whole = await self.link.call(methods.GET_MAP, catalog_pb2.MapRequest(), catalog_pb2.MapDelta, deadline)
            if not self._apply(whole):
                raise InvalidArgument("the catalog sent a change instead of the whole map", where=self.link.endpoint)

    def _apply(self, message: catalog_pb2.MapDelta) -> bool:
        """Takes the change in; False if it does not start at our map."""
        change = change_from_message(message)
        if change.cluster != self.link.cluster:
            raise WrongCluster(
                f"map of cluster {change.cluster.hex()}, and {self.link.cluster.hex()} was met before",
                where=self.link.endpoint,
            )
        changed = change.apply(self._map)
        if changed is None:
            return False
        if self._map is None or changed.epoch >= self._map.epoch:  # else it was overtaken by a newer answer
            self._map = changed
            self._profiles = {(pg.k, pg.m) for pg in changed.pgs.values()}
            self.link.has_map(changed.epoch)
            self.metrics.add("map.renewals")
        return True
