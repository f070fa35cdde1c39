"""lightning's configuration: read back with a TOML parser, password never in argv."""

import re
import tomllib
from pathlib import Path

from backup_manager.tidb.connection import Access, TlsFiles
from backup_manager.tools import lightning

AWKWARD = 'p"a\\ss\nw\u00f6rd\x7f'


def test_the_file_says_what_was_meant() -> None:
    work = lightning.Import(
        source="s3://b/p?endpoint=x", access=Access(host="h", port=1, user="u", password=AWKWARD), filters=["a.*", "!b.*"]
    )
    config = tomllib.loads(lightning.toml(work))
    assert config["tidb"] == {"host": "h", "port": 1, "user": "u", "password": AWKWARD}
    assert config["lightning"]["task-info-schema-name"] == ""
    (rule,) = config["mydumper"].pop("files")
    assert rule["type"] == "ignore"
    assert re.fullmatch(rule["pattern"], "shop.s-schema-sequence.sql.gz")
    assert config["mydumper"] == {
        "data-source-dir": "s3://b/p?endpoint=x",
        "default-file-rules": True,
        "filter": ["a.*", "!b.*"],
    }
    assert config["tikv-importer"] == {"backend": "tidb"}
    assert config["checkpoint"] == {"enable": False}
    assert config["lightning"]["status-addr"] == ""


def test_the_local_backend_needs_pd_and_a_folder() -> None:
    work = lightning.Import(source="/x", access=Access(host="h"), backend="local", pd_addr="pd:2379", sorted_kv_dir=Path("/kv"))
    config = tomllib.loads(lightning.toml(work))
    assert config["tikv-importer"] == {"backend": "local", "sorted-kv-dir": "/kv"}
    assert config["tidb"]["pd-addr"] == "pd:2379"


def test_tls_with_and_without_verification() -> None:
    folder = Path("/tls")
    checked = tomllib.loads(lightning.toml(lightning.Import(source="/x", access=Access(host="h", tls=TlsFiles(folder=folder)))))
    assert checked["security"] == {"ca-path": "/tls/ca.crt", "cert-path": "/tls/tls.crt", "key-path": "/tls/tls.key"}
    loose = Access(host="h", tls=TlsFiles(folder=folder, verify=False))
    unchecked = tomllib.loads(lightning.toml(lightning.Import(source="/x", access=loose)))
    assert "ca-path" not in unchecked["security"]
    assert unchecked["tidb"]["tls"] == "skip-verify"


def test_argv_holds_no_secret() -> None:
    assert lightning.argv("tidb-lightning", Path("/s/l.toml")) == ["tidb-lightning", "--config", "/s/l.toml", "--log-file=-"]


def test_what_it_says() -> None:
    heard = lightning.LightningOutput()
    for line in (
        '[x] [INFO] [chunk_process.go:223] ["restore file completed"] [table=`shop`.`o`] [checksum="{cksum=0,size=14,kvs=2}"]',
        '[x] [INFO] [chunk_process.go:223] ["restore file completed"] [table=`shop`.`o`] [checksum="{cksum=0,size=14,kvs=40}"]',
        '[x] [INFO] [import.go:1129] [progress] [total=12.3%] [tables="0/5 (0.0%)"] [state=writing] [remaining=40s]',
    ):
        heard.line(line)
    assert (heard.rows, heard.success) == (42, False)
    assert heard.progress == lightning.Progress(percent=12.3, remaining="40s")
    heard.line("tidb lightning canceled")
    assert (heard.canceled, heard.success) == (True, False)
    heard.line("tidb lightning exit successfully")
    assert heard.success
