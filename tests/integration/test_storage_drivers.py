"""One contract, every provider, real servers."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup_manager.errors import ManagerError, NotFoundError, PreconditionError
from backup_manager.storage.base import Storage
from tests.support.object_stores import Store, azure, fresh, gcs, local, s3

pytestmark = pytest.mark.integration

STORES = ("s3-plain", "s3-versioned", "gcs", "azblob", "local")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Store]]:
    folder = tmp_path_factory.mktemp("stores")
    with s3(folder / "s3") as (plain, versioned), gcs(folder / "gcs") as google, azure(folder / "azure") as microsoft:
        found = (plain, versioned, google, microsoft, local(folder / "volume"))
        yield {store.name: store for store in found}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, stores: dict[str, Store]) -> Store:
    return stores[request.param]


@pytest.fixture
def storage(store: Store) -> Iterator[Storage]:
    storage = store.open(fresh())
    yield storage
    storage.close()


def empty(storage: Storage) -> bool:
    return not any(page for page in storage.targets())


def test_write_read_list_delete(storage: Storage) -> None:
    names = ["a", "a b", "a+b", "ü/ñ", "p%20q", "deep/er/k", "a-b", "~t", "x&y<z>"]
    for name in names:
        storage.write(name, name.encode())
    listed = {info.key: info.size for info in storage.list()}
    assert listed == {name: len(name.encode()) for name in names}
    assert storage.read("ü/ñ") == "ü/ñ".encode()
    with storage.open("a b") as stream:
        assert stream.read() == b"a b"
    assert storage.stat("a").size == 1
    assert {info.key for info in storage.list("deep/")} == {"deep/er/k"}
    assert not list(storage.delete(names))
    assert not list(storage.list())


def test_absent_object_and_folder(storage: Storage) -> None:
    assert not list(storage.list())
    assert empty(storage)
    assert not list(storage.delete(["nothing"]))
    for call in (storage.read, storage.stat, storage.fetch):
        with pytest.raises(NotFoundError):
            call("nothing")
    with pytest.raises(NotFoundError):
        storage.open("nothing").__enter__()


def test_create_only_if_absent(storage: Storage) -> None:
    storage.write("claim", b"first", if_absent=True)
    with pytest.raises(PreconditionError):
        storage.write("claim", b"second", if_absent=True)
    assert storage.read("claim") == b"first"


def test_of_many_creators_one_wins(storage: Storage) -> None:
    won: list[int] = []
    gate = threading.Barrier(8)

    def create(number: int) -> None:
        gate.wait()
        try:
            storage.write("claim", str(number).encode(), if_absent=True)
        except PreconditionError:
            return
        won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert storage.read("claim") == str(won[0]).encode()


def test_no_lost_update(storage: Storage) -> None:
    storage.write("count", b"0")

    def add() -> None:
        for _ in range(5):
            while True:
                data, etag = storage.fetch("count")
                try:
                    storage.write("count", str(int(data) + 1).encode(), if_match=etag)
                    break
                except PreconditionError:
                    continue

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert storage.read("count") == b"20"


def test_update_of_a_changed_object_is_refused(storage: Storage) -> None:
    storage.write("k", b"1")
    _, etag = storage.fetch("k")
    storage.write("k", b"2", if_match=etag)
    with pytest.raises(PreconditionError):
        storage.write("k", b"3", if_match=etag)
    assert storage.read("k") == b"2"


def test_targets_take_everything_away(storage: Storage) -> None:
    for number in range(30):
        storage.write(f"d{number % 3}/k{number}", b"x")
        storage.write(f"d{number % 3}/k{number}", b"xy")
    for _ in range(3):
        for page in storage.targets():
            assert not list(storage.delete_batch(page[: storage.batch_size]))
    assert empty(storage)


def test_sibling_folders_are_apart(store: Store) -> None:
    prefix = fresh()
    inner, sibling = store.open(prefix), store.open(f"{prefix}-b")
    inner.write("k", b"1")
    sibling.write("k", b"2")
    assert [info.key for info in inner.list()] == ["k"]
    assert sibling.at(inner.location).read("k") == b"1"
    for page in inner.targets():
        inner.delete_batch(page)
    assert sibling.read("k") == b"2"


def test_state_of_the_bucket(store: Store, storage: Storage) -> None:
    state = storage.state()
    expected = {"s3-versioned": True, "s3-plain": False, "local": False, "gcs": False}.get(store.name)
    assert state.versioned is expected
    if state.clock_skew is not None:
        assert abs(state.clock_skew) < 30


def test_a_large_object_streams(storage: Storage, tmp_path: Path) -> None:
    data = bytes(range(256)) * 20_000
    storage.write("large", data)
    copy = tmp_path / "copy"
    with storage.open("large") as stream, copy.open("wb") as file:
        while chunk := stream.read(100_000):
            file.write(chunk)
    assert copy.read_bytes() == data


def test_missing_bucket_is_named(store: Store) -> None:
    provider = next(iter(store.spec))
    if provider == "local":
        pytest.skip("a volume has no bucket")
    field = "container" if provider == "azblob" else "bucket"
    absent = Store(name="absent", spec={provider: {**store.spec[provider], field: "absent-bucket"}}, env=store.env)
    storage = absent.open("p")
    with pytest.raises(ManagerError) as caught:
        list(storage.list())
    assert caught.value.problem().reason == "BucketNotFound"
    assert "absent-bucket" in caught.value.message
    with pytest.raises(ManagerError) as caught:
        storage.state()
    assert caught.value.problem().reason == "BucketNotFound"
