"""Restore to a point in time: what is checked before br touches the cluster, and how br is told of two storages."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from backup_manager.content import Item, Kind
from backup_manager.context import Result
from backup_manager.errors import ManagerError, UsageError
from backup_manager.masking import Masker, secrets_of
from backup_manager.operations import br_pitr, br_restore
from backup_manager.operations.br_pitr import PointUnreachableError, checked
from backup_manager.storage.pitr import PointStorage, resolve_pitr_storages
from backup_manager.tools import br_runner
from crds.contract import paths
from tests.support.fake_tool import FakeTool
from tests.support.manager import FakeDatabase, World, local_storage, world

META = bytes.fromhex("280730ac02c80188271a00")  # end_version 300
REACH = '[x] [INFO] [collector.go:268] ["log metadata"] [log-min-ts=200] [log-min-date="-"] [log-max-ts=450] [log-max-date="-"]'

DONE = '[x] [INFO] [collector.go:268] ["restore log success summary"] [total-take=2.3s]'
CLOSING = (
    '[x] [INFO] [collector.go:264] ["Full Restore success summary"] [BackupTS=300] [RestoreTS=900]\n'
    '[x] [INFO] [collector.go:268] ["restore log success summary"] [total-take=2.3s] [source-start-point=300] '
    "[source-end-point=450] [target-end-point=901] [total-kv-count=0]"
)


@pytest.mark.parametrize(
    ("start", "target", "expected"),
    [(300, 400, 400), (300, 0, 450), (300, 300, 300), (300, 450, 450), (200, 0, 450), (0, 200, 200), (0, 0, 450)],
)
def test_points_that_can_be_reached(start: int, target: int, expected: int) -> None:
    assert checked(start, target, 200, 450, base=True) == expected


@pytest.mark.parametrize(
    ("start", "target", "said", "hint"),
    [
        (300, 451, "451 (", "The nearest point is 450 ("),
        (300, 299, "299 (", "The nearest point is 300 ("),
        (0, 199, "199 (", "The nearest point is 200 ("),
        (199, 400, "gap: the base snapshot is of 199 (", "snapshot of 200 ("),
        (451, 0, "later than the log", "in between"),
    ],
)
def test_points_that_cannot(start: int, target: int, said: str, hint: str) -> None:
    with pytest.raises(PointUnreachableError) as caught:
        checked(start, target, 200, 450, base=True)
    assert said in caught.value.message
    assert hint in caught.value.hint


class Case:
    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path
        self.tool = FakeTool(folder=tmp_path / "bin")
        self.base = local_storage(tmp_path, "full")
        (tmp_path / "volume" / "full").mkdir()
        (tmp_path / "volume" / "full" / "backupmeta").write_bytes(META)
        self.flags: dict[str, Any] = {"mode": "pitr"}
        self.spec: dict[str, Any] = {
            "br": {"cluster": "basic"},
            "local": local_storage(tmp_path, "log"),
            "pitrFullBackupStorageProvider": {"local": self.base},
        }
        (tmp_path / "volume" / "log").mkdir()

    def run(self, *, out: str = REACH, closing: str = DONE, refuses: str = "") -> tuple[Result, World]:
        self.tool.install("br", out=[out, *([] if out == CLOSING else [closing])], refuses=refuses)
        here = world(self.tmp_path, self.spec, kind="Restore", env=self.tool.env, flags=self.flags)
        return br_restore.run(here.context), here

    def fails(self, *, refuses: str = "") -> ManagerError:
        with pytest.raises(ManagerError) as caught:
            self.run(refuses=refuses)
        return caught.value

    @property
    def calls(self) -> list[list[str]]:
        return [call["argv"][1:] for call in self.tool.called("br")]


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_the_newest_point_is_asked_for_by_its_time(case: Case) -> None:
    result, here = case.run()
    assert result.commit_ts == "450"
    look, put = case.calls
    assert look[:2] == ["log", "metadata"]
    assert put[:2] == ["restore", "point"]
    assert put[-2:] == ["--restored-ts=450", f"--full-backup-storage=local://{case.tmp_path}/volume/full"]
    assert [part.step for part in here.report.progress] == ["Prepare", "Look", "Restore", "Check"]
    assert here.report.result["restoreTo"] == "450"


def test_a_br_without_phases_does_not_begin(case: Case) -> None:
    """One phase without its flag would be the whole restore. The words are those of br v8.5.0."""
    case.flags["replicationPhase"] = "1"
    problem = case.fails(refuses="Error: unknown flag: --restore-phase\n").problem()
    assert (problem.reason, problem.retryable) == ("ToolFlagUnknown", False)
    assert "does not know --restore-phase" in problem.message
    assert case.calls == []


def test_br_s_last_word_is_the_point_it_reached(case: Case) -> None:
    """br v8.5.0 on a log whose reach it did not tell beforehand."""
    assert case.run(out=CLOSING)[0].commit_ts == "450"


def test_the_summary_of_the_base_alone_is_no_success(case: Case) -> None:
    """br prints it before it begins with the log, in the very same words."""
    with pytest.raises(ManagerError) as caught:
        case.run(closing='[x] [INFO] [collector.go:264] ["Full Restore success summary"] [BackupTS=300] [RestoreTS=900]')
    problem = caught.value.problem()
    assert (problem.reason, problem.retryable) == ("RestoreDataFromRemoteFailed", True)


def test_a_point_past_the_log_never_reaches_the_cluster(case: Case) -> None:
    case.flags["pitrRestoredTs"] = "500"
    assert case.fails().problem().reason == "PointInTimeUnreachable"
    assert [call[:2] for call in case.calls] == [["log", "metadata"]]


def test_the_ends_of_the_log_are_in_the_history(case: Case) -> None:
    case.run()
    (entry,) = [json.loads(path.read_text()) for path in (case.tmp_path / "volume" / ".history").iterdir()]
    assert (entry["event"], entry["commitTs"]) == ("Restored", "450")
    assert (entry["content"]["startTs"], entry["content"]["endTs"]) == ("300", "450")


BASE = [Item(kind=Kind.TABLE, schema="shop", name=name) for name in ("o", "gone")]


def with_target(case: Case, monkeypatch: pytest.MonkeyPatch, present: list[tuple[str, str]], *rules: str) -> None:
    """A target that lists *present*, and a base that holds :data:`BASE`."""
    case.spec |= {"to": {"host": "db"}, "tableFilter": list(rules)}
    listed = [(schema, name, "BASE TABLE") for schema, name in present]
    database = FakeDatabase(shown={"select table_schema, table_name, table_type": listed}, present=present)
    monkeypatch.setattr(br_pitr, "connect", lambda _context, _access: database)
    monkeypatch.setattr(br_runner, "read_content", lambda _storage, _data: (BASE, {}))


def test_tables_of_the_base_that_are_not_in_the_target_are_told(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log may have dropped them."""
    with_target(case, monkeypatch, [("shop", "O"), ("shop", "new"), ("mysql", "user")])
    result, here = case.run()
    assert result.details == {"schemas": 1, "tables": 2, "goneSinceBase": ["shop.gone"], "goneSinceBaseCount": 1}
    assert any("shop.gone" in line for line in here.lines)


@pytest.mark.parametrize(
    ("present", "rules", "reason"),
    [
        ([("shop", "new")], [], "RestoreIncomplete"),
        ([("shop", "o")], ["shop.o", "shop.typo"], "NothingRestored"),
        ([("shop", "o")], ["typo.*"], "NothingRestored"),
    ],
    ids=["none of the base", "a table that the spec names", "no table that a rule matches"],
)
def test_a_target_without_what_must_be_there_fails_the_restore(
    case: Case, monkeypatch: pytest.MonkeyPatch, present: list[tuple[str, str]], rules: list[str], reason: str
) -> None:
    with_target(case, monkeypatch, present, *rules)
    assert case.fails().problem().reason == reason


def test_after_the_first_phase_the_whole_base_is_in_the_target(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    with_target(case, monkeypatch, [("shop", "o")])
    case.flags["replicationPhase"] = "1"
    problem = case.fails().problem()
    assert problem.reason == "RestoreIncomplete"
    assert "shop.gone" in problem.message


def test_a_base_that_lost_a_file_never_reaches_the_cluster(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(br_runner, "read_content", lambda _storage, _data: (BASE, {"1.sst": 7}))
    problem = case.fails().problem()
    assert problem.reason == "SourceDamaged"
    assert "1.sst" in problem.message
    assert [call[:2] for call in case.calls] == [["log", "metadata"]]


def test_from_a_start_without_a_base(case: Case) -> None:
    del case.spec["pitrFullBackupStorageProvider"]
    case.spec |= {"logRestoreStartTs": "250", "pitrRestoredTs": "400"}
    case.flags["replicationPhase"] = "2"
    case.run()
    tail = [
        "--restore-phase=2",
        "--pitr-concurrency=1024",
        "--metadata-download-batch-size=512",
        "--retain-latest-mvcc-version",
    ]
    assert case.calls[1][-6:] == ["--restored-ts=400", "--start-ts=250", *tail]


def test_a_base_that_is_not_there(case: Case) -> None:
    case.base["prefix"] = "elsewhere"
    assert case.fails().problem().reason == "SourceNotFound"
    assert len(case.calls) == 1


def test_neither_base_nor_start(case: Case) -> None:
    del case.spec["pitrFullBackupStorageProvider"]
    assert isinstance(case.fails(), UsageError)
    assert case.calls == []


def test_a_br_that_says_nothing_of_the_log_checks_itself(case: Case) -> None:
    case.flags["pitrRestoredTs"] = "500"
    case.run(out="quiet")
    assert case.calls[1][:2] == ["restore", "point"]


S3 = {"provider": "aws", "region": "eu-west-1", "bucket": "b"}
KEYS = {"AWS_ACCESS_KEY_ID": "AKLOG", "AWS_SECRET_ACCESS_KEY": "log-secret"}
BASE_KEYS = {"FULL_BACKUP_AWS_ACCESS_KEY_ID": "AKBASE", "FULL_BACKUP_AWS_SECRET_ACCESS_KEY": "base-secret+/"}


def told(tmp_path: Path, log: dict[str, Any], base: dict[str, Any], env: dict[str, str]) -> PointStorage:
    return resolve_pitr_storages(log, paths.location_of(log), base, paths.location_of(base), env=env, scratch=tmp_path)


def query(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query, keep_blank_values=True).items()}


def test_the_same_keys_stay_in_the_environment(tmp_path: Path) -> None:
    made = told(tmp_path, {"s3": S3 | {"prefix": "log"}}, {"s3": S3 | {"prefix": "full"}}, KEYS)
    assert (made.log.url, made.base_url) == ("s3://b/log", "s3://b/full")


def test_keys_of_the_base_go_into_its_url_and_do_not_stay_for_the_log(tmp_path: Path) -> None:
    env = KEYS | BASE_KEYS
    made = told(tmp_path, {"s3": S3 | {"prefix": "log"}}, {"s3": S3 | {"prefix": "full"}}, env)
    base, log = query(made.base_url), query(made.log.url)
    assert (base["access-key"], base["secret-access-key"]) == ("AKBASE", "base-secret+/")
    assert (log["access-key"], log["secret-access-key"]) == ("", "")
    assert set(base) == set(log)
    mask = Masker([*secrets_of(env, {}), *made.log.secrets])
    shown = mask(f"--full-backup-storage={made.base_url} base-secret+/")
    assert "base-secret" not in shown
    assert "base-secret" not in repr(made)


def test_a_base_that_is_read_by_the_pods_role(tmp_path: Path) -> None:
    env = KEYS | {"FULL_BACKUP_AWS_REGION": "eu-west-1", "AWS_ROLE_ARN": "arn"}
    made = told(tmp_path, {"s3": S3 | {"prefix": "log"}}, {"s3": S3 | {"prefix": "full"}}, env)
    assert query(made.log.url)["secret-access-key"] == "log-secret"
    assert query(made.base_url)["secret-access-key"] == ""
    assert made.log.env["AWS_SECRET_ACCESS_KEY"] == ""


def test_another_endpoint_alone_needs_no_secret_in_a_url(tmp_path: Path) -> None:
    env = KEYS | {f"FULL_BACKUP_{name}": value for name, value in KEYS.items()}
    made = told(tmp_path, {"s3": S3 | {"prefix": "log"}}, {"s3": S3 | {"endpoint": "http://minio:9000", "prefix": "f"}}, env)
    assert query(made.base_url)["endpoint"] == "http://minio:9000"
    assert query(made.log.url)["endpoint"] == ""
    assert "log-secret" not in made.base_url + made.log.url


def test_two_providers_have_their_own_options_and_variables(tmp_path: Path) -> None:
    env = {"FULL_BACKUP_GCS_SERVICE_ACCOUNT_JSON_KEY": "{}", "FULL_BACKUP_GCS_PROJECT_ID": "p"} | KEYS
    made = told(tmp_path, {"s3": S3 | {"prefix": "log"}}, {"gcs": {"projectId": "p", "bucket": "g", "prefix": "full"}}, env)
    assert made.base_url == "gcs://g/full/"
    assert made.log.url == "s3://b/log"
    assert Path(made.log.env["GOOGLE_APPLICATION_CREDENTIALS"]).read_text() == "{}"


def test_two_azure_applications_are_more_than_br_can_do(tmp_path: Path) -> None:
    application = {"AZURE_CLIENT_ID": "a", "AZURE_CLIENT_SECRET": "one-secret", "AZURE_TENANT_ID": "t"}
    env = application | {f"FULL_BACKUP_{name}": f"{value}2" for name, value in application.items()}
    log, base = ({"azblob": {"container": "c", "storageAccount": name, "prefix": name}} for name in ("one", "two"))
    with pytest.raises(UsageError, match="two Azure applications"):
        told(tmp_path, log, base, env)


def test_azure_tokens_stay_in_their_urls_and_are_masked(tmp_path: Path) -> None:
    log, base = (
        {"azblob": {"container": "c", "storageAccount": name, "prefix": name, "sasToken": f"sig={name}-token"}}
        for name in ("log", "base")
    )
    made = told(tmp_path, log, base, {})
    assert query(made.log.url)["sas-token"] == "sig=log-token"
    assert query(made.base_url)["sas-token"] == "sig=base-token"
    mask = Masker([*secrets_of({}, {**log, "pitrFullBackupStorageProvider": base}), *made.log.secrets])
    assert "token" not in mask(f"{made.log.url} {made.base_url}").replace("sas-token", "")
