"""What is recorded of a spec at the start, what counts as an edit of it, and the spec as it was recorded."""

from typing import Any

import pytest

from crds.contract import identity, names
from crds.contract.identity import PD_ADDRESS

LOG: dict[str, Any] = {
    "backupMode": "log",
    "br": {"cluster": "basic", "options": ["--x=1"]},
    "s3": {"provider": "aws", "bucket": "b", "prefix": "log-A", "secretName": "keys"},
    "from": {"host": "tidb"},
}


def record(spec: dict[str, Any], **annotations: str) -> dict[str, str]:
    return identity.record(spec, namespace="db", annotations=annotations)


def edited(spec: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return [change.field for change in identity.changes(now, record(spec), namespace="db", annotations={})]


def test_the_record_names_place_cluster_and_mode_and_no_secret() -> None:
    sas = {"azblob": {"container": "c", "prefix": "p", "sasToken": "sv=secret", "storageAccount": "a"}}
    assert record(LOG) == {
        "backupMode": "log",
        "br.cluster": "basic",
        "br.clusterNamespace": "db",
        "s3.bucket": "b",
        "s3.prefix": "log-A",
        "s3.provider": "aws",
    }
    assert "secret" not in identity.to_text(record(sas))
    assert identity.from_text(identity.to_text(record(LOG))) == record(LOG)


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1}', "null"])
def test_a_record_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        identity.from_text(text)


@pytest.mark.parametrize(
    ("now", "fields"),
    [
        ({**LOG, "s3": {**LOG["s3"], "prefix": "log-B"}}, ["s3.prefix"]),
        ({**LOG, "s3": {**LOG["s3"], "bucket": "other"}}, ["s3.bucket"]),
        ({**LOG, "s3": {**LOG["s3"], "endpoint": "http://other:9000"}}, ["s3.endpoint"]),
        ({**LOG, "s3": {**LOG["s3"], "provider": "ceph"}}, ["s3.provider"]),
        ({**LOG, "br": {"cluster": "other"}}, ["br.cluster"]),
        ({**LOG, "br": {"cluster": "basic", "clusterNamespace": "prod"}}, ["br.clusterNamespace"]),
        ({**LOG, "br": {"cluster": "basic", "options": ["--pd=x:2379"]}}, [PD_ADDRESS]),
        ({**LOG, "backupMode": "snapshot"}, ["backupMode", "from.host", "from.port"]),
        (
            {**{key: value for key, value in LOG.items() if key != "s3"}, "gcs": {"bucket": "b", "prefix": "log-A"}},
            ["gcs.bucket", "gcs.prefix", "s3.bucket", "s3.prefix", "s3.provider"],
        ),
    ],
)
def test_an_edit_of_where_it_works_is_seen_and_undone_by_apply(now: dict[str, Any], fields: list[str]) -> None:
    assert edited(LOG, now) == fields
    restored = identity.apply(now, record(LOG))
    assert identity.changes(restored, record(LOG), namespace="db", annotations={}) == []
    assert restored["backupMode"] == "log"


@pytest.mark.parametrize(
    "now",
    [
        {**LOG, "s3": {**LOG["s3"], "prefix": "/log-A/"}},
        {**LOG, "s3": {**LOG["s3"], "bucket": "b/log-A", "prefix": ""}},
        {**LOG, "s3": {**LOG["s3"], "secretName": "rotated", "region": "eu-west-1"}},
        {**LOG, "br": {"cluster": "basic", "clusterNamespace": "db"}},
        {**LOG, "from": {"host": "elsewhere", "port": 4001}},
        {**LOG, "logSubcommand": "log-pause", "logTruncateUntil": "9", "cleanPolicy": "Delete"},
    ],
)
def test_other_edits_and_other_ways_to_write_the_same_are_none(now: dict[str, Any]) -> None:
    assert edited(LOG, now) == []


def test_everything_else_of_the_spec_stays_as_it_is_now() -> None:
    now = {**LOG, "s3": {**LOG["s3"], "prefix": "log-B", "secretName": "rotated"}, "cleanPolicy": "Delete"}
    restored = identity.apply(now, record(LOG))
    assert restored["s3"] == {**LOG["s3"], "secretName": "rotated"}
    assert (restored["cleanPolicy"], restored["from"]) == ("Delete", {"host": "tidb"})
    assert now["s3"]["prefix"] == "log-B", "what was given is not changed"


def test_a_member_of_pd_that_moved_is_no_other_cluster() -> None:
    given = {names.PD_ADDR_ANNOTATION: "a:2379,b:2379"}
    before = identity.record(LOG, namespace="db", annotations=given)
    for address, changed in (("b:2379,c:2379", []), ("x:2379", [PD_ADDRESS]), ("", [PD_ADDRESS])):
        annotations = {names.PD_ADDR_ANNOTATION: address} if address else {}
        found = identity.changes(LOG, before, namespace="db", annotations=annotations)
        assert [change.field for change in found] == changed
    assert identity.apply_annotations({names.PD_ADDR_ANNOTATION: "x:2379", "mine": "1"}, before) == {**given, "mine": "1"}


def test_an_address_of_pd_in_the_options_gives_way_to_the_recorded_one() -> None:
    now = {**LOG, "br": {"cluster": "basic", "options": ["--pd", "x:2379", "--y", "-u=z:1", "--x=1"]}}
    assert identity.apply(now, record(LOG))["br"]["options"] == ["--y", "--x=1"]


def test_a_volume_is_known_by_what_it_is_and_not_by_its_name() -> None:
    def local(name: str, claim: str) -> dict[str, Any]:
        volume = {"name": name, "persistentVolumeClaim": {"claimName": claim}}
        return {"local": {"prefix": "p", "volume": volume, "volumeMount": {"name": name, "mountPath": "/nfs"}}}

    assert edited(local("v", "one"), local("w", "one")) == []
    assert edited(local("v", "one"), local("v", "two")) == ["local.volume"]
    restored = identity.apply({"s3": LOG["s3"]}, record(local("v", "one")))["local"]
    assert restored["volume"]["name"] == restored["volumeMount"]["name"]
    assert restored["volume"]["persistentVolumeClaim"] == {"claimName": "one"}


def test_the_place_of_an_older_status_is_where_the_run_lies() -> None:
    moved = {**LOG, "s3": {**LOG["s3"], "prefix": "log-B"}}
    known = identity.with_place(record(moved), moved, "s3://b/log-A/")
    assert [change.recorded for change in identity.changes(moved, known, namespace="db", annotations={})] == ["log-A"]
    assert identity.with_place(record(LOG), LOG, "s3://b/log-A") == record(LOG)
    assert identity.with_place(record(LOG), LOG, "not a path") == record(LOG)
    export = {"s3": {"provider": "aws", "bucket": "b", "prefix": "new"}}
    known = identity.with_place(record(export), export, "s3://b/old/daily-0f5e9c1a", folder="daily-0f5e9c1a")
    assert known["s3.prefix"] == "old"
    assert identity.with_place(record(export), export, "s3://b/x/backup.tgz", folder="daily-0f5e9c1a") == record(export)
