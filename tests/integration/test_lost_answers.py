"""A commit whose answer is lost on the way and that is tried again: the outcome is the first one's. On real processes.

The client's way to catalogd leads through a proxy, which holds answers back: so a commit has been applied, others may
do what they like, and only then the connection is cut and the client repeats the commit under the same id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import pytest
from reedbed_cluster import LocalCluster, local_cluster
from reedbed_cluster.commands import until
from reedbed_faults.proxy import ProxyThread, proxied

import reedbed

T = TypeVar("T")
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with local_cluster(tmp_path_factory.mktemp("lost") / "cluster") as cluster:
        yield cluster


@pytest.fixture
def other(shared: LocalCluster) -> Iterator[reedbed.Store]:
    """Another client, whose way to catalogd is good."""
    with reedbed.connect(shared.endpoint, timeout=20) as store:
        yield store


@pytest.fixture
def bucket(other: reedbed.Store, request: pytest.FixtureRequest) -> str:
    name = request.node.originalname.removeprefix("test_").replace("_", "-")[:60]
    number = len(list(other.list_buckets()))
    other.create_bucket(f"{name[:50]}-{number}")
    return f"{name[:50]}-{number}"


class Lossy:
    """A client behind a proxy that knows all it needs but the outcome of its next commit."""

    def __init__(self, store: reedbed.Store, proxy: ProxyThread, threads: ThreadPoolExecutor) -> None:
        self.store = store
        self.proxy = proxy
        self._threads = threads

    @contextmanager
    def lost(self, work: Callable[[], T], applied: Callable[[], bool]) -> Iterator[Future[T]]:
        """Does the work in a thread; within the context it is applied, and its answer is held back. At the end that
        answer is dropped and the connection cut."""
        self.proxy.proxy.hold_answers = True
        try:
            future = self._threads.submit(work)
            until(lambda: self.proxy.proxy.held and applied())
            assert not future.done()
            yield future
        finally:
            self.proxy.cut()
            self.proxy.proxy.hold_answers = False
        future.exception(30)
        assert self.store.metrics()["catalog.retries"] > 0


@pytest.fixture
def lossy(shared: LocalCluster, other: reedbed.Store, bucket: str) -> Iterator[Lossy]:
    with (
        ThreadPoolExecutor(4) as threads,
        proxied(shared.endpoint) as proxy,
        reedbed.connect(proxy.address, timeout=20) as store,
    ):
        store.put(bucket, "warm", b"so that the map, a block of ids and the bucket's profile are known")
        assert store.metrics().get("catalog.retries", 0) == 0
        yield Lossy(store, proxy, threads)


def versions(store: reedbed.Store, bucket: str, key: str) -> list[str]:
    return [info.version for info in store.list_versions(bucket, prefix=key)]


@pytest.mark.parametrize("size", [100, 3 * MIB])
def test_a_put_alone(lossy: Lossy, other: reedbed.Store, bucket: str, size: int) -> None:
    blob = bytes([7]) * size
    with lossy.lost(lambda: lossy.store.put(bucket, "k", blob), lambda: other.exists(bucket, "k")) as put:
        first = other.stat(bucket, "k")
    assert put.result().version == first.version
    assert put.result().last_modified == first.last_modified
    assert other.stat(bucket, "k") == first
    assert lossy.store.get(bucket, "k") == blob


def test_a_put_before_anothers_overwrite(lossy: Lossy, other: reedbed.Store, bucket: str) -> None:
    with lossy.lost(lambda: lossy.store.put(bucket, "k", b"first"), lambda: other.exists(bucket, "k")) as put:
        first = other.stat(bucket, "k")
        second = other.put(bucket, "k", b"second")
    assert put.result().version == first.version != second.version
    assert other.stat(bucket, "k").version == second.version
    assert lossy.store.get(bucket, "k") == other.get(bucket, "k") == b"second"


def test_a_put_before_anothers_delete(lossy: Lossy, other: reedbed.Store, bucket: str) -> None:
    with lossy.lost(lambda: lossy.store.put(bucket, "k", b"first"), lambda: other.exists(bucket, "k")) as put:
        first = other.stat(bucket, "k")
        assert other.delete(bucket, "k")
    assert put.result().version == first.version
    assert not other.exists(bucket, "k")
    assert not lossy.store.exists(bucket, "k")


def test_one_version_in_a_versioned_bucket(lossy: Lossy, other: reedbed.Store, bucket: str) -> None:
    kept = bucket + "-v"
    other.create_bucket(kept, versioned=True)
    lossy.store.put(kept, "warm", b"")
    with lossy.lost(lambda: lossy.store.put(kept, "k", b"first"), lambda: other.exists(kept, "k")) as put:
        first = other.stat(kept, "k")
        second = other.put(kept, "k", b"second")
    assert put.result().version == first.version
    assert versions(other, kept, "k") == [second.version, first.version]
    assert other.get(kept, "k", version=first.version) == b"first"


def test_if_none_match(lossy: Lossy, other: reedbed.Store, bucket: str) -> None:
    def put() -> reedbed.ObjectInfo:
        return lossy.store.put(bucket, "k", b"mine", if_none_match=True)

    with lossy.lost(put, lambda: other.exists(bucket, "k")) as made:
        first = other.stat(bucket, "k")
    assert made.result().version == first.version
    assert other.get(bucket, "k") == b"mine"
    with pytest.raises(reedbed.PreconditionFailed):
        put()


def test_if_match_before_anothers_overwrite(lossy: Lossy, other: reedbed.Store, bucket: str) -> None:
    before = other.put(bucket, "k", b"before")

    def put() -> reedbed.ObjectInfo:
        return lossy.store.put(bucket, "k", b"mine", if_match=before.etag)

    with lossy.lost(put, lambda: other.stat(bucket, "k").version != before.version) as made:
        first = other.stat(bucket, "k")
        second = other.put(bucket, "k", b"second", if_match=first.etag)
    assert made.result().version == first.version
    assert other.stat(bucket, "k").version == second.version


def test_a_refusal_stays_a_refusal(lossy: Lossy, other: reedbed.Store, bucket: str) -> None:
    """Lost is the answer that the condition did not hold; by the time of the retry it would."""
    other.put(bucket, "k", b"theirs")

    def put() -> reedbed.ObjectInfo:
        return lossy.store.put(bucket, "k", b"mine", if_none_match=True)

    # nothing but the commit is answered to this client by now, so what is held is the refusal
    with lossy.lost(put, lambda: True) as refused:
        other.delete(bucket, "k")
    with pytest.raises(reedbed.PreconditionFailed):
        refused.result()
    assert not other.exists(bucket, "k")


@pytest.mark.parametrize("put_again", [False, True])
def test_a_delete(lossy: Lossy, other: reedbed.Store, bucket: str, put_again: bool) -> None:
    other.put(bucket, "k", b"old")
    with lossy.lost(lambda: lossy.store.delete(bucket, "k"), lambda: not other.exists(bucket, "k")) as deleted:
        if put_again:
            new = other.put(bucket, "k", b"new")
    assert deleted.result() is True, "the first delete removed something, and a repeated one tells so"
    if put_again:
        assert other.stat(bucket, "k").version == new.version
        assert other.get(bucket, "k") == b"new"
    else:
        assert not other.exists(bucket, "k")


def test_a_copy(lossy: Lossy, other: reedbed.Store, bucket: str) -> None:
    other.put(bucket, "source", b"old source")
    with lossy.lost(
        lambda: lossy.store.copy(bucket, "source", bucket, "k"), lambda: other.exists(bucket, "k")
    ) as copied:
        first = other.stat(bucket, "k")
        other.put(bucket, "source", b"new source")
    assert copied.result().version == first.version
    assert other.stat(bucket, "k").version == first.version
    assert lossy.store.get(bucket, "k") == b"old source"


def test_many_at_once(lossy: Lossy, other: reedbed.Store, bucket: str) -> None:
    objects = {f"many/{number:03}": b"%d" % number for number in range(100)}
    first: dict[str, str] = {}
    with lossy.lost(
        lambda: lossy.store.put_many(bucket, objects), lambda: any(True for _ in other.list(bucket, prefix="many/"))
    ) as put:
        first = {row.key: row.version for row in other.list(bucket, prefix="many/")}
        second = other.put(bucket, "many/000", b"second")
    results = put.result()
    assert {key: results[key].version for key in first} == first
    assert other.stat(bucket, "many/000").version == second.version
    for key, blob in other.get_many(bucket, sorted(objects)):
        assert blob == (b"second" if key == "many/000" else objects[key])
    assert len(list(other.list(bucket, prefix="many/"))) == 100


@pytest.mark.parametrize("what", ["put", "delete", "copy"])
def test_an_answer_that_stays_lost_leaves_the_outcome_unknown(
    lossy: Lossy, shared: LocalCluster, other: reedbed.Store, bucket: str, what: str
) -> None:
    other.put(bucket, "k", b"old")
    works: dict[str, Callable[[reedbed.Store], object]] = {
        "put": lambda store: store.put(bucket, "k", b"new"),
        "delete": lambda store: store.delete(bucket, "k"),
        "copy": lambda store: store.copy(bucket, "warm", bucket, "k"),
    }
    with reedbed.connect(lossy.proxy.address, timeout=2) as hasty:
        hasty.put(bucket, "hasty", b"")
        lossy.proxy.proxy.hold_answers = True
        try:
            with pytest.raises((reedbed.DeadlineExceeded, reedbed.Unavailable)) as caught:
                works[what](hasty)
        finally:
            lossy.proxy.cut()
            lossy.proxy.proxy.hold_answers = False
        assert caught.value.maybe_applied
        assert "unknown" in str(caught.value)
        if what == "delete":
            assert not other.exists(bucket, "k")
        else:
            assert other.get(bucket, "k") == (b"new" if what == "put" else other.get(bucket, "warm"))
        assert hasty.put(bucket, "k", b"after that all is well").size == 22
