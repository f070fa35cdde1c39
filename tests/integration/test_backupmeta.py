"""Our reader of ``backupmeta`` against br's own: ``br debug decode`` of real backups, and what ``br debug encode`` makes.

Encrypted ones are made here, in the way of br's crypter, because minikv's store refuses encryption; br itself proves that they
are what it would write, by decoding them with the key.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from backup_manager.errors import NotFoundError
from backup_manager.storage.local import LocalStorage
from backup_manager.tools import backupmeta, br_runner, secret_options
from backup_manager.tools.backupmeta import BackupMeta, BackupMetaError
from crds.contract.paths import location_of
from sandbox.minikv import minikv_with_tidb
from tests.support.br import Br
from tests.support.servers import Tidb

pytestmark = pytest.mark.integration

LAYOUTS = {"v1": "--use-backupmeta-v2=false", "v2": "--use-backupmeta-v2=true"}
KEY = "0123456789abcdef0123456789abcdef"
TABLES = 3
FILE_INDEX, BACKUP_SIZE = 13, 25


@dataclass(frozen=True, kw_only=True)
class Made:
    """One real backup: its folder, the numbers of br's closing line, and when the one before it was taken."""

    br: Br
    folder: Path
    commit_ts: int
    since: int = 0

    @property
    def meta(self) -> bytes:
        return (self.folder / backupmeta.NAME).read_bytes()

    def decode(self) -> dict[str, Any]:
        """What br itself reads, side files put in."""
        run = self.br("debug", "decode", "-s", f"local://{self.folder}")
        assert run.code == 0, run.error
        jsons = self.folder / "jsons"
        found: dict[str, Any] = json.loads((jsons / "backupmeta.json").read_text())
        for part in found.get("file_index", {}).get("meta_files", ()):
            found["files"] = found.get("files", []) + json.loads((jsons / f"{part['name']}.json").read_text())["data_files"]
        return found

    def ours(self) -> BackupMeta:
        return br_runner.read_meta(storage(self.folder))


def storage(folder: Path) -> LocalStorage:
    mount = {"name": "v", "mountPath": str(folder.parent)}
    return LocalStorage(location_of({"local": {"prefix": folder.name, "volume": {"name": "v"}, "volumeMount": mount}}))


@pytest.fixture(scope="module")
def backups(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Made]]:
    """A full one in each layout, then an incremental one."""
    base = tmp_path_factory.mktemp("meta")
    with minikv_with_tidb(base) as (kv, tidb):
        tables = [f"create table shop.t{n}(id int primary key, v varchar(99), key(v))" for n in range(TABLES)]
        rows = [f"insert into shop.t{n} values (1,'a'),(2,repeat('b',99))" for n in range(TABLES)]
        Tidb(port=tidb.port).execute("create database shop", *tables, *rows)
        br = Br(pd=kv.pd, folder=base / "br", env={})
        made = {name: take(br, base / name, flag) for name, flag in LAYOUTS.items()}
        Tidb(port=tidb.port).execute("insert into shop.t0 values (3,'late')")
        since = made["v1"].commit_ts
        made["incremental"] = take(br, base / "incremental", f"--lastbackupts={since}", since=since)
        yield made


def take(br: Br, folder: Path, flag: str, *, since: int = 0) -> Made:
    run = br("backup", "db", "--db", "shop", "-s", f"local://{folder}", flag)
    assert run.succeeded, run.error
    found = re.search(r"\[BackupTS=(\d+)\]", run.summary)
    assert found
    return Made(br=br, folder=folder, commit_ts=int(found[1]), since=since)


@pytest.mark.parametrize("name", [*LAYOUTS, "incremental"])
def test_every_number_is_br_s_own(backups: Mapping[str, Made], name: str) -> None:
    made = backups[name]
    theirs, ours = made.decode(), made.ours()
    assert ours.end_version == theirs["end_version"] == made.commit_ts
    assert ours.start_version == theirs.get("start_version", 0) == made.since
    assert ours.size == theirs["backup_size"] > 0
    assert bool(theirs.get("version")) == (name == "v2" or "file_index" in theirs)


@pytest.mark.parametrize("name", LAYOUTS)
def test_without_br_s_own_size_ours_is_the_same(backups: Mapping[str, Made], name: str, tmp_path: Path) -> None:
    """br before it wrote ``backup_size``: the field taken out, which br reads as none."""
    made = backups[name]
    theirs, files = made.decode(), {path.name: path.stat().st_size for path in made.folder.rglob("*.sst")}
    assert sum(file["size"] for file in theirs["files"]) == sum(files.values())
    assert {Path(file["name"]).name for file in theirs["files"]} == set(files)
    assert len(list(made.folder.glob("backupmeta.datafile.*"))) == (name == "v2")
    older = copy(made, tmp_path / "older", b"".join(part for number, part in fields(made.meta) if number != BACKUP_SIZE))
    assert "backup_size" not in older.decode()
    assert older.ours() == made.ours()


def test_what_br_encodes(backups: Mapping[str, Made], tmp_path: Path) -> None:
    """``br debug encode`` of an edited JSON; it knows layout v1 only."""
    edited = copy(backups["v1"], tmp_path / "edited", backups["v1"].meta)
    told = edited.decode() | {"start_version": 1, "end_version": 2**63, "backup_size": 2**40 + 1}
    (edited.folder / "jsons" / "backupmeta.json").write_text(json.dumps(told))
    run = edited.br("debug", "encode", "-s", f"local://{edited.folder}")
    assert run.code == 0, run.error
    encoded = (edited.folder / "backupmeta_from_json").read_bytes()
    assert backupmeta.parse(encoded) == BackupMeta(start_version=1, end_version=2**63, size=2**40 + 1)


def test_many_side_files(backups: Mapping[str, Made], tmp_path: Path) -> None:
    """br begins a new one after some thousands of files: its own is split here, and br reads what comes out."""
    made = backups["v2"]
    files = made.decode()["files"]
    assert len(files) >= TABLES
    [whole] = made.folder.glob("backupmeta.datafile.*")
    contents = {f"{whole.name}{number}": part for number, (_, part) in enumerate(fields(whole.read_bytes()))}
    index = b"".join(field(1, entry(name, content)) for name, content in contents.items())
    kept = b"".join(part for number, part in fields(made.meta) if number not in {BACKUP_SIZE, FILE_INDEX})
    split = copy(made, tmp_path / "split", kept + field(FILE_INDEX, index))
    (split.folder / whole.name).unlink()
    for name, content in contents.items():
        (split.folder / name).write_bytes(content)
    assert split.decode()["files"] == files
    side = sum(path.stat().st_size for path in split.folder.glob("backupmeta*"))
    assert split.ours().size == side + sum(file["size"] for file in files)
    (split.folder / f"{whole.name}1").write_bytes(b"\x12\xff")
    with pytest.raises(BackupMetaError, match=rf"{whole.name}1 of 2 bytes is no backup description"):
        split.ours()
    (split.folder / f"{whole.name}1").unlink()
    with pytest.raises(NotFoundError, match=f"{whole.name}1"):
        split.ours()


def copy(made: Made, folder: Path, meta: bytes) -> Made:
    """The backup with another ``backupmeta``."""
    shutil.copytree(made.folder, folder)
    (folder / backupmeta.NAME).write_bytes(meta)
    return replace(made, folder=folder)


def fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and whole encoding of each field; there are varints and byte strings only."""
    position = 0
    while position < len(data):
        start = position
        tag, position = number_at(data, position)
        value, position = number_at(data, position)
        position += value if tag & 7 == 2 else 0
        yield tag >> 3, data[start:position]


def number_at(data: bytes, position: int) -> tuple[int, int]:
    end = next(place for place in range(position, len(data)) if data[place] < 0x80) + 1
    return sum((byte & 0x7F) << 7 * place for place, byte in enumerate(data[position:end])), end


def number(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + number(rest) if rest else bytes([low])


def field(tag: int, content: bytes) -> bytes:
    return number(tag << 3 | 2) + number(len(content)) + content


def entry(name: str, content: bytes) -> bytes:
    """A side file as an index lists it: name, digest, size."""
    return field(1, name.encode()) + field(2, hashlib.sha256(content).digest()) + number(11 << 3) + number(len(content))


def test_an_encrypted_one_is_a_clear_error(backups: Mapping[str, Made], tmp_path: Path) -> None:
    """As br's crypter does it: a random IV, then AES-CTR."""
    made, iv = backups["v1"], os.urandom(16)
    encryptor = Cipher(algorithms.AES(bytes.fromhex(KEY)), modes.CTR(iv)).encryptor()
    (tmp_path / "enc").mkdir()
    (tmp_path / "enc" / backupmeta.NAME).write_bytes(iv + encryptor.update(made.meta) + encryptor.finalize())
    where = ("-s", f"local://{tmp_path / 'enc'}")
    crypter = ("--crypter.method", "aes128-ctr", "--crypter.key", KEY)
    assert made.br("debug", "decode", *where, *crypter).code == 0
    assert made.br(*secret_options.told(["debug", "decode", *where, *crypter], tmp_path).argv).code == 0
    assert made.br("debug", "decode", *where).code == 1
    with pytest.raises(BackupMetaError, match="is no backup description") as caught:
        br_runner.read_meta(storage(tmp_path / "enc"))
    assert "--crypter.method" in caught.value.hint


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_damaged_one_is_a_clear_error(backups: Mapping[str, Made], layout: str) -> None:
    data = backups[layout].meta
    damaged = {f"cut at {part}/8": data[: len(data) * part // 8] for part in range(8)}
    damaged |= {"cut by one byte": data[:-1], "noise": os.urandom(len(data)), "zeros": bytes(len(data))}
    damaged |= {"an error page": b"<html><body>502 Bad Gateway</body></html>" * 9, "a sector of zeros": bytes(64) + data[64:]}
    for what, content in damaged.items():
        with pytest.raises(BackupMetaError):
            pytest.fail(f"{what}: read as {backupmeta.parse(content)}")
