"""The manifests on a real API server: they render and apply, the manager's account can report and nothing else, Metacontroller
gets along with the narrow role, and TiDB Operator's own backup controllers are refused."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from app.builders.namespace import ROLE, build_rights
from app.domain.config import Config
from crds.contract import names
from sandbox.api import JOBS, PODS, Api, ApiError, Object, Resource, name_of
from sandbox.cluster import Cluster
from sandbox.patience import until

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = ROOT / "metacontroller" / "overlays"
APP = "app"
OWN = "backup-nightly"
LONG = "backup-" + "a" * 54
OPERATOR_FINALIZER = "tidb.pingcap.com/backup-protection"
BACKUPS = Resource("pingcap.com/v1alpha1", "backups", "Backup", namespaced=True)
RBAC = "rbac.authorization.k8s.io"


FIFTY = "backup-" + "b" * 43
"""50 characters that the names of two Jobs have in common."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """An API server with every overlay applied, one after the other, and one namespace with the manager's rights."""
    with Cluster(f"manifests-{time.monotonic_ns() % 10**6}", tidbs=(), parts=frozenset()) as running:
        for overlay in ("standalone", "tidb-operator-v2"):
            apply(running, OVERLAYS / overlay)
        metacontroller = account("metacontroller", "metacontroller")
        for obj in (namespace(APP), namespace("metacontroller"), *build_rights(APP, Config()), metacontroller, old_backup()):
            running.api.apply(obj)
        apply(running, OVERLAYS / "tidb-operator-v1")
        apply(running, OVERLAYS / "metacontroller-least-privilege")
        running.api.apply(bind_metacontroller())
        for job in (job_of(OWN), job_of("backup-other"), job_of(LONG), *NAMESAKES):
            running.api.apply(job)
        running.api.apply(job_of("of-somebody-else", labels={}))
        until_enforced(running)
        yield running


def apply(cluster: Cluster, folder: Path) -> None:
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-k", str(folder))


def namespace(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def old_backup() -> Object:
    """A Backup from the time of TiDB Operator, with the finalizer that it put there."""
    return backup_of("old", finalizers=[OPERATOR_FINALIZER])


def backup_of(name: str, **metadata: Any) -> Object:
    spec = {"from": {"host": "tidb", "secretName": "tidb"}, "s3": {"provider": "aws", "bucket": "b", "secretName": "s3"}}
    meta = {"name": name, "namespace": APP, **metadata}
    return {"apiVersion": BACKUPS.api_version, "kind": "Backup", "metadata": meta, "spec": spec}


def account(name: str, where: str) -> Object:
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": where}}


def bind_metacontroller() -> Object:
    return {
        "apiVersion": f"{RBAC}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "metacontroller"},
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": "metacontroller"},
        "subjects": [{"kind": "ServiceAccount", "name": "metacontroller", "namespace": "metacontroller"}],
    }


def job_of(name: str, *, labels: Mapping[str, str] | None = None, runs_as: str = names.SERVICE_ACCOUNT, **spec: Any) -> Object:
    if spec.get("completionMode") == "Indexed":
        spec |= {"completions": 2, "parallelism": 2}
    container = {"name": "backup", "image": "manager"}
    pod = {"serviceAccountName": runs_as, "restartPolicy": "Never", "containers": [container]}
    metadata = {
        "name": name,
        "namespace": APP,
        "labels": {names.OWNER_UID_LABEL: "1"} if labels is None else dict(labels),
        "annotations": {"kept": "yes"},
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"template": {"spec": pod}, **spec}}


def as_account(cluster: Cluster, name: str, where: str = APP, *, pod: str = "") -> Api:
    """A client with a token of that account, bound to *pod* as a kubelet binds it."""
    request: Object = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    if pod:
        containers = [{"name": "backup", "image": "manager"}]
        body = {"metadata": {"name": pod, "namespace": where}, "spec": {"serviceAccountName": name, "containers": containers}}
        made = cluster.api.find(PODS, where, pod) or cluster.api.create(PODS, {"apiVersion": "v1", "kind": "Pod", **body})
        request["spec"] = {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": made["metadata"]["uid"]}}
    answer = cluster.api.request("POST", f"/api/v1/namespaces/{where}/serviceaccounts/{name}/token", request)
    return Api(cluster.api.server, token=answer["status"]["token"], ca_file=cluster.layout.certificates / "ca.crt")


def jobs_role(cluster: Cluster, name: str, *verbs: str) -> str:
    """A Role *name* for Jobs that is not ours; its name."""
    rule = {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": list(verbs)}
    cluster.api.apply(
        {"apiVersion": f"{RBAC}/v1", "kind": "Role", "metadata": {"name": name, "namespace": APP}, "rules": [rule]}
    )
    return name


def bind(cluster: Cluster, name: str, *, role: str = ROLE) -> None:
    """An account *name*, bound to *role* as docs/install.md tells."""
    cluster.api.apply(account(name, APP))
    subject = {"kind": "ServiceAccount", "name": name, "namespace": APP}
    reference = {"apiGroup": RBAC, "kind": "Role", "name": role}
    meta = {"name": f"{name}-{role}", "namespace": APP}
    binding = {"metadata": meta, "roleRef": reference, "subjects": [subject]}
    cluster.api.apply({"apiVersion": f"{RBAC}/v1", "kind": "RoleBinding", **binding})


NAMESAKES = (
    *(job_of(name, completionMode="Indexed") for name in ("nightly-shards", "cpbk")),
    *map(job_of, ("cpbk-0", "nightly-shards-0", f"{FIFTY}-one", f"{FIFTY}-two")),
)
"""Jobs whose Pods are called almost alike."""


def manager(cluster: Cluster, pod: str = f"{OWN}-x7k2p") -> Api:
    return as_account(cluster, names.SERVICE_ACCOUNT, pod=pod)


def until_enforced(cluster: Cluster) -> None:
    """A policy starts to act a moment after it was stored."""
    api = manager(cluster)
    until(lambda: refused(lambda: api.patch(JOBS, APP, OWN, {"spec": {"suspend": True}})), "enforced on Jobs")
    until(lambda: refused(lambda: of_tidb_operator(cluster)), "enforced on TiDB Operator")


def of_tidb_operator(cluster: Cluster) -> Object:
    job = job_of("restore-by-operator", labels={names.MANAGED_BY_LABEL: "restore-operator"})
    return cluster.api.request("POST", JOBS.path(APP), job, query={"dryRun": "All"})


def refused(attempt: Callable[[], Any]) -> str:
    """The refusal of *attempt*, or nothing when it was allowed."""
    try:
        attempt()
    except ApiError as error:
        if error.status != 403:
            raise
        return error.message
    return ""


def report(text: str | None = '{"v":1}') -> Object:
    return {"metadata": {"annotations": {names.REPORT_ANNOTATION: text}}}


def test_an_overlay_applied_again_changes_nothing(cluster: Cluster) -> None:
    overlay = OVERLAYS / "tidb-operator-v1"
    assert cluster.kubectl("diff", "--server-side", "--force-conflicts", "-k", str(overlay), check=False) == ""


def test_the_crds_are_served_with_a_status_of_their_own(cluster: Cluster) -> None:
    for plural in ("backups", "restores", "backupschedules", "compactbackups"):
        crd = cluster.api.request("GET", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.pingcap.com")
        assert crd["spec"]["versions"][0]["subresources"] == {"status": {}}
        # kubectl waits where the server is still building the storage of a CRD that has just changed.
        cluster.kubectl("get", f"{plural}.pingcap.com", "--all-namespaces")


def test_a_namespace_admin_may_handle_backups_and_a_viewer_may_look(cluster: Cluster) -> None:
    for role, verbs in (
        ("tidb-backup-edit", {"create", "delete", "patch", "update"}),
        ("tidb-backup-view", {"get", "list", "watch"}),
    ):
        granted = cluster.api.request("GET", f"/apis/{RBAC}/v1/clusterroles/{role}")["rules"][0]
        assert verbs <= set(granted["verbs"])
        assert set(granted["resources"]) == {"backups", "restores", "backupschedules", "compactbackups"}


class TestReport:
    """What the manager's account may do to Jobs."""

    def test_on_its_own_job_again_and_again(self, cluster: Cluster) -> None:
        api = manager(cluster)
        for seq in range(2):
            assert api.patch(JOBS, APP, OWN, report(f'{{"v":1,"seq":{seq}}}'))["metadata"]["annotations"]["kept"] == "yes"

    def test_with_the_uid_of_the_job_in_the_same_patch(self, cluster: Cluster) -> None:
        api, patch = manager(cluster), report()
        patch["metadata"]["uid"] = api.get(JOBS, APP, OWN)["metadata"]["uid"]
        api.patch(JOBS, APP, OWN, patch)

    @pytest.mark.parametrize(
        ("job", "pod"),
        [
            (LONG, LONG[:58] + "abcde"),
            ("nightly-shards", "nightly-shards-0-abcde"),
            ("nightly-shards", "nightly-shards-11-abcde"),
            ("cpbk-0", "cpbk-0-abcde"),
            (f"{FIFTY}-one", f"{FIFTY}-one-abcde"),
        ],
        ids=["long name", "first index", "later index", "a number at its end", "a namesake in 50 characters"],
    )
    def test_whatever_the_name_of_the_pod(self, cluster: Cluster, job: str, pod: str) -> None:
        manager(cluster, pod).patch(JOBS, APP, job, report())

    @pytest.mark.parametrize(
        ("patch", "why"),
        [
            ({"spec": {"suspend": True}}, "spec"),
            ({"spec": {"ttlSecondsAfterFinished": 0}}, "spec"),
            ({"metadata": {"labels": {"a": "b"}}}, "labels"),
            ({"metadata": {"labels": {names.OWNER_UID_LABEL: None}}}, "labels"),
            ({"metadata": {"finalizers": ["example.com/hold"]}}, "finalizers"),
            ({"metadata": {"annotations": {names.REPORT_ANNOTATION: "{}", "other": "x"}}}, "annotation"),
            ({"metadata": {"annotations": {names.REPORT_ANNOTATION: "{}", "kept": "no"}}}, "annotation"),
            ({"metadata": {"annotations": {names.REPORT_ANNOTATION: "{}", "kept": None}}}, "annotation"),
            ({"metadata": {"annotations": {names.REPORT_ANNOTATION: None}}}, "annotation"),
            (report("x" * 8193), "8192"),
        ],
        ids=lambda part: part if isinstance(part, str) else None,
    )
    def test_nothing_else_of_its_own_job(self, cluster: Cluster, patch: Object, why: str) -> None:
        api = manager(cluster)
        api.patch(JOBS, APP, OWN, report())
        message = refused(lambda: api.patch(JOBS, APP, OWN, patch))
        assert "tidb-backup-reports" in message
        assert why in message

    @pytest.mark.parametrize(
        ("job", "pod"),
        [
            ("backup-other", f"{OWN}-x7k2p"),
            (OWN, "backup-night-ly-x7k2p"),
            (OWN, f"{OWN}-r1-x7k2p"),
            (OWN, f"{OWN}-0-x7k2p"),
            ("nightly-shards", "nightly-shards-x7k2p"),
            ("nightly-shards", "nightly-shards-01-x7k2p"),
            ("nightly-shards-0", "nightly-shards-0-x7k2p"),
            ("cpbk", "cpbk-0-x7k2p"),
            ("cpbk", "cpbk-x7k2p"),
            ("cpbk-0", "cpbk-x7k2p"),
            (f"{FIFTY}-one", f"{FIFTY}-two-x7k2p"),
            (f"{FIFTY}-two", f"{FIFTY}-x7k2p"),
            (LONG, "backup-" + "a" * 40 + "-x7k2p"),
            (LONG, LONG[:57] + "bx7k2p"),
            ("of-somebody-else", "of-somebody-else-x7k2p"),
        ],
    )
    def test_no_job_but_its_own(self, cluster: Cluster, job: str, pod: str) -> None:
        assert "tidb-backup-reports" in refused(lambda: manager(cluster, pod).patch(JOBS, APP, job, report()))

    def test_not_with_a_token_that_belongs_to_no_pod(self, cluster: Cluster) -> None:
        api = as_account(cluster, names.SERVICE_ACCOUNT)
        assert "its own Job" in refused(lambda: api.patch(JOBS, APP, OWN, report()))

    def test_the_same_for_an_account_of_the_users_choice(self, cluster: Cluster) -> None:
        bind(cluster, "with-iam-role")
        for job in ("backup-iam", "backup-iam-2"):
            cluster.api.apply(job_of(job, runs_as="with-iam-role"))
        api = as_account(cluster, "with-iam-role", pod="backup-iam-x7k2p")
        api.patch(JOBS, APP, "backup-iam", report())
        assert "spec" in refused(lambda: api.patch(JOBS, APP, "backup-iam", {"spec": {"suspend": True}}))
        assert "its own Job" in refused(lambda: api.patch(JOBS, APP, "backup-iam-2", report()))

    @pytest.mark.parametrize("may_update", [False, True], ids=["by the Role alone", "with more rights on Jobs"])
    def test_the_same_for_whoever_holds_the_role_on_jobs_of_other_accounts(self, cluster: Cluster, *, may_update: bool) -> None:
        name = "nightly-updates" if may_update else "nightly"
        bind(cluster, name)
        if may_update:
            bind(cluster, name, role=jobs_role(cluster, "updates-jobs", "get", "update"))
        for api in (as_account(cluster, name), as_account(cluster, name, pod=f"{name}-x7k2p")):
            for job in (OWN, "of-somebody-else"):
                for patch in (report(), {"spec": {"suspend": True}}, {"metadata": {"labels": {"a": "b"}}}):
                    assert "tidb-backup-reports" in refused(lambda: api.patch(JOBS, APP, job, patch))  # noqa: B023
                if may_update:
                    changed = cluster.api.get(JOBS, APP, job)
                    changed["spec"]["suspend"] = True
                    assert "tidb-backup-reports" in refused(lambda: api.replace(JOBS, changed))  # noqa: B023
        as_account(cluster, name, pod=f"{OWN}-{int(may_update)}2345").patch(JOBS, APP, OWN, report())

    def test_a_report_is_forged_by_no_account_that_may_edit_jobs(self, cluster: Cluster) -> None:
        bind(cluster, "editor", role=jobs_role(cluster, "edits-jobs", "create", "delete", "get", "patch", "update"))
        api = as_account(cluster, "editor")
        api.patch(JOBS, APP, "backup-other", {"metadata": {"annotations": {"theirs": "x"}}})
        assert "its own Job" in refused(lambda: api.patch(JOBS, APP, "backup-other", report('{"v":1,"backupPath":"s3://b/x"}')))
        api.patch(JOBS, APP, "of-somebody-else", report())

    def test_an_administrator_and_metacontroller_are_not_narrowed(self, cluster: Cluster) -> None:
        cluster.api.patch(JOBS, APP, "backup-other", report())
        api = as_account(cluster, "metacontroller", "metacontroller")
        job = api.get(JOBS, APP, "backup-other")
        job["metadata"]["labels"]["adopted"] = "yes"
        assert api.replace(JOBS, job)["metadata"]["labels"]["adopted"] == "yes"

    def test_others_are_left_alone(self, cluster: Cluster) -> None:
        cluster.api.patch(JOBS, APP, "backup-other", {"metadata": {"labels": {"a": "b"}}})

    def test_no_other_verb_and_no_secret(self, cluster: Cluster) -> None:
        api = manager(cluster)
        for method, path in (
            ("GET", f"/api/v1/namespaces/{APP}/secrets"),
            ("GET", f"/apis/batch/v1/namespaces/{APP}/jobs"),
            ("DELETE", JOBS.path(APP, OWN)),
            ("PATCH", JOBS.path(APP, OWN, "status")),
            ("PATCH", BACKUPS.path(APP, "nightly")),
            ("GET", JOBS.path("tidb-backup-system", "x")),
        ):
            body: Object | None = {} if method == "PATCH" else None
            assert refused(lambda: api.request(method, path, body, content="application/merge-patch+json"))  # noqa: B023
        assert api.list(PODS, APP)["items"]


class TestMetacontroller:
    """The narrow ClusterRole."""

    def test_it_may_grant_the_manager_its_rights(self, cluster: Cluster) -> None:
        api = as_account(cluster, "metacontroller", "metacontroller")
        cluster.api.apply(namespace("labelled"))
        for obj in build_rights("labelled", Config()):
            api.create(api.resource_of(obj["apiVersion"], obj["kind"]), obj)

    def test_and_no_more_than_those(self, cluster: Cluster) -> None:
        api = as_account(cluster, "metacontroller", "metacontroller")
        role = {
            "metadata": {"name": "more", "namespace": APP},
            "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["update"]}],
        }
        roles = api.resource(f"{RBAC}/v1", "roles")
        assert "not currently held" in refused(lambda: api.create(roles, {"apiVersion": f"{RBAC}/v1", "kind": "Role", **role}))
        assert refused(lambda: api.request("GET", f"/api/v1/namespaces/{APP}/configmaps"))

    def test_it_may_run_a_backup_from_finalizer_to_status(self, cluster: Cluster) -> None:
        api = as_account(cluster, "metacontroller", "metacontroller")
        backup = cluster.api.apply(backup_of("one"))
        backup["metadata"]["finalizers"] = ["metacontroller.io/compositecontroller-tidb-backup"]
        backup = api.replace(BACKUPS, backup)
        owner = {"apiVersion": BACKUPS.api_version, "kind": "Backup", "name": "one", "uid": backup["metadata"]["uid"]}
        job = job_of("backup-one")
        job["metadata"]["ownerReferences"] = [{**owner, "controller": True, "blockOwnerDeletion": True}]
        api.create(JOBS, job)
        backup["status"] = {"phase": "Running", "observedGeneration": 1}
        assert api.replace(BACKUPS, backup, "status")["status"]["phase"] == "Running"
        api.delete(JOBS, APP, "backup-one", propagation="Background")
        backup = api.get(BACKUPS, APP, "one")
        backup["metadata"]["finalizers"] = []
        api.replace(BACKUPS, backup)


class TestHandsOff:
    """TiDB Operator 1.x beside us, its backup controllers not switched off as they should be."""

    @pytest.mark.parametrize("operator", ["backup-operator", "restore-operator", "compact-backup-operator"])
    def test_its_jobs_are_refused_and_ours_are_not(self, cluster: Cluster, operator: str) -> None:
        theirs = job_of("backup-x", labels={names.MANAGED_BY_LABEL: operator})
        ours = job_of("backup-x", labels={names.MANAGED_BY_LABEL: operator, names.OWNER_UID_LABEL: "1"})
        assert "controllerManager.selector" in refused(lambda: cluster.api.create(JOBS, theirs))
        name = name_of(cluster.api.create(JOBS, ours))
        cluster.api.delete(JOBS, APP, name, propagation="Background")

    def test_so_are_the_backups_of_its_schedules(self, cluster: Cluster) -> None:
        owner = {"apiVersion": BACKUPS.api_version, "kind": "BackupSchedule", "name": "s", "uid": "1"}
        backup = backup_of("s-1", ownerReferences=[owner])
        assert "BackupSchedules" in refused(lambda: cluster.api.create(BACKUPS, backup))
        backup["metadata"]["labels"] = {names.CONTROLLER_UID_LABEL: "1"}
        cluster.api.create(BACKUPS, backup)

    def test_its_finalizer_cannot_be_added_but_can_stay_and_go(self, cluster: Cluster) -> None:
        cluster.api.patch(BACKUPS, APP, "old", {"metadata": {"labels": {"a": "b"}}})
        cluster.api.patch(BACKUPS, APP, "old", {"metadata": {"finalizers": []}})
        again = {"metadata": {"finalizers": [OPERATOR_FINALIZER]}}
        assert "finalizer" in refused(lambda: cluster.api.patch(BACKUPS, APP, "old", again))
