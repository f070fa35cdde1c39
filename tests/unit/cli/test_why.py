"""``why``: what is looked for beside the CR itself."""

from typing import Any

from backup_manager.errors import AccessDeniedError
from cli.commands.why import collect
from cli.documents import Files, Object
from tests.support.objects import EXPORT_SPEC, UID, job, parent


def owned(name: str) -> dict[str, Any]:
    made = job(name, state="pending")
    made["metadata"]["ownerReferences"] = [{"kind": "Backup", "name": "basic", "uid": UID, "controller": True}]
    return made


def event(name: str) -> dict[str, Any]:
    about = {"kind": "Job", "name": name}
    return {
        "kind": "Event",
        "metadata": {"name": f"{name}.1", "namespace": "db"},
        "involvedObject": about,
        "reason": "FailedCreate",
    }


ACCOUNT = {"kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "db"}}


class NoAccounts(Files):
    """A user who may not list ServiceAccounts."""

    def list(self, kind: str, *, everywhere: bool = False) -> list[Object]:
        if kind == "ServiceAccount":
            raise AccessDeniedError("forbidden")
        return super().list(kind, everywhere=everywhere)


def test_the_jobs_own_events_and_the_accounts_are_looked_at_when_there_is_no_pod() -> None:
    objects = [parent("Backup", EXPORT_SPEC), owned("backup-basic"), event("backup-basic"), event("of-another"), ACCOUNT]
    found = collect(Files(objects), "basic", lines=10)
    assert [item["metadata"]["name"] for item in found.events] == ["backup-basic.1"]
    assert found.accounts == frozenset({"default"})
    assert collect(Files(objects[:-1]), "basic", lines=10).accounts is None
    assert collect(NoAccounts(objects), "basic", lines=10).accounts is None


def test_the_job_that_has_an_awaited_name_is_looked_at() -> None:
    status = {"phase": "RetryFailed", "awaitedJobs": ["backup-basic-r1"]}
    other = job("backup-basic-r1", labels={"tidb.pingcap.com/backup": "basic-r1", "tidb.pingcap.com/cr-uid": "another"})
    found = collect(Files([parent("Backup", EXPORT_SPEC, status=status), owned("backup-basic"), other]), "basic", lines=10)
    assert [item["metadata"]["name"] for item in found.namesakes] == ["backup-basic-r1"]
    assert [item["metadata"]["name"] for item in found.jobs] == ["backup-basic"]
