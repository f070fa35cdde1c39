"""What an administrator applies says the same as the code: names, routes, rights, limits. Read as plain YAML, without tools."""

import re
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.builders.namespace import RULES
from app.hooks.resource import Kind
from crds.contract import names, report
from rotator.__main__ import rotator_parser
from rotator.cluster import CONTROLLERS
from rotator.plan import Policy, plan
from rotator.secret import secret_data

ROOT = Path(__file__).resolve().parents[3]
MANIFESTS = ROOT / "metacontroller"
DAY = timedelta(days=1)
OVERLAYS = ("standalone", "tidb-operator-v1", "tidb-operator-v2")
Rights = set[tuple[str, str, str]]


@cache
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@cache
def objects() -> tuple[dict[str, Any], ...]:
    """Every object of the base and the overlays, CRDs apart."""
    paths = [path for path in sorted(MANIFESTS.rglob("*.yaml")) if path.name != "kustomization.yaml"]
    return tuple(document for path in paths for document in yaml.safe_load_all(path.read_text()) if document)


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [obj for obj in objects() if obj["kind"] == kind]


def one(kind: str, name: str) -> dict[str, Any]:
    (obj,) = (obj for obj in of_kind(kind) if obj["metadata"]["name"] == name)
    return obj


def controllers() -> list[dict[str, Any]]:
    return of_kind("CompositeController") + of_kind("DecoratorController")


def hooks() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Controller, hook name and hook."""
    for controller in controllers():
        for name, hook in controller["spec"]["hooks"].items():
            yield controller["metadata"]["name"], name, hook


def rights(rules: Any) -> Rights:
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def kustomization(folder: Path) -> dict[str, Any]:
    path = next(folder / name for name in ("kustomization.yaml", "Kustomization") if (folder / name).exists())
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded


@pytest.mark.parametrize(
    "folder",
    [MANIFESTS / "base", *(MANIFESTS / "overlays" / name for name in OVERLAYS), MANIFESTS / "monitoring", ROOT / "crds"],
)
def test_every_file_is_applied_and_every_applied_file_exists(folder: Path) -> None:
    listed = set(kustomization(folder).get("resources", []))
    present = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}
    assert {name for name in listed if not name.startswith("../")} == present
    assert all((folder / name).exists() for name in listed)


def test_the_four_kinds_have_a_controller_each() -> None:
    parents = {controller["spec"]["parentResource"]["resource"] for controller in of_kind("CompositeController")}
    assert parents == {"backups", "restores", "backupschedules", "compactbackups"}


@pytest.mark.parametrize("controller", of_kind("CompositeController"), ids=lambda obj: str(obj["metadata"]["name"]))
def test_a_composite_controller_follows_the_rules_of_every_hook(controller: dict[str, Any]) -> None:
    spec = controller["spec"]
    assert spec["generateSelector"] is True
    assert 60 <= spec["resyncPeriodSeconds"] <= 300
    assert {child["updateStrategy"]["method"] for child in spec["childResources"]} == {"OnDelete"}
    assert set(spec["hooks"]) == {"customize", "sync", "finalize"}


def test_a_namespace_never_waits_for_the_webhook_to_go() -> None:
    (decorator,) = of_kind("DecoratorController")
    assert set(decorator["spec"]["hooks"]) == {"sync"}
    assert decorator["spec"]["resources"][0]["labelSelector"] == {"matchLabels": {"tidb.pingcap.com/backup": "enabled"}}
    methods = {item["resource"]: item["updateStrategy"]["method"] for item in decorator["spec"]["attachments"]}
    # app/hooks/namespace.py answers accounts and bindings by stubs, which any other method would take for the whole object.
    assert methods == {"serviceaccounts": "OnDelete", "roles": "InPlace", "rolebindings": "OnDelete"}


@pytest.mark.parametrize(("controller", "name", "hook"), list(hooks()), ids=lambda part: part if isinstance(part, str) else "")
def test_a_hook_speaks_version_2_and_reaches_the_service(controller: str, name: str, hook: dict[str, Any]) -> None:
    assert hook["version"] == "v2"
    service, namespace = one("Service", "tidb-backup-webhook"), one("Namespace", "tidb-backup-system")["metadata"]["name"]
    port = next(port for port in service["spec"]["ports"] if port["name"] == "https")
    address = f"https://{service['metadata']['name']}.{namespace}.svc:{port['port']}/"
    path = {"tidb-backup-namespaces": "namespace"}.get(controller, controller.removeprefix("tidb-"))
    # The version makes Metacontroller build its controllers anew, and ask about every CR, when the webhook is upgraded.
    assert hook["webhook"]["url"] == f"{address}{path}/{name}?v={project()['project']['version']}"
    assert re.fullmatch(r"\d+s", hook["webhook"]["timeout"])
    grace = one("Deployment", "tidb-backup-webhook")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert int(hook["webhook"]["timeout"][:-1]) < grace
    assert hook["webhook"]["authorization"] == {
        "secretRef": {"name": "tidb-backup-webhook", "namespace": namespace, "key": "token"}
    }
    # The rotator puts it there; what is applied must not take it away again.
    assert "caBundle" not in hook["webhook"]


def test_what_the_rotator_writes_is_what_the_webhook_mounts_and_the_hooks_name() -> None:
    defaults = vars(rotator_parser().parse_args([]))
    pod = one("Deployment", "tidb-backup-webhook")["spec"]["template"]["spec"]
    (volume,) = pod["volumes"]
    assert volume["secret"]["secretName"] == defaults["secret"] == "tidb-backup-webhook"
    assert one("Service", defaults["service"])
    assert one("Namespace", "tidb-backup-system")["metadata"]["name"] == defaults["namespace"]
    (container,) = pod["containers"]
    (mount,) = container["volumeMounts"]
    mounted = {f"{mount['mountPath']}/{item['path']}" for item in volume["secret"]["items"]}
    files = {item["value"] for item in container["env"] if item["name"].endswith("_FILE")}
    assert files == mounted
    change = plan(None, Policy(names=["x"], renew_after=DAY, life=2 * DAY), datetime.now(UTC))
    assert change is not None
    assert {item["key"] for item in volume["secret"]["items"]} | {"token"} <= set(secret_data(change.credentials))


def test_the_rotator_may_touch_its_secret_and_the_controllers_and_nothing_else() -> None:
    names = {
        (kind, controller["metadata"]["name"])
        for kind in ("CompositeController", "DecoratorController")
        for controller in of_kind(kind)
    }
    known = {
        ({"compositecontrollers": "CompositeController", "decoratorcontrollers": "DecoratorController"}[plural], name)
        for plural, found in CONTROLLERS.items()
        for name in found
    }
    assert known == names
    cluster_rules = one("ClusterRole", "tidb-backup-rotator")["rules"]
    assert rights(cluster_rules) == {
        ("metacontroller.k8s.io", plural, verb) for plural in CONTROLLERS for verb in ("get", "patch")
    }
    assert {name for rule in cluster_rules for name in rule["resourceNames"]} == {name for _, name in names}
    create, own = one("Role", "tidb-backup-rotator")["rules"]
    assert (create["verbs"], own["verbs"], own["resourceNames"]) == (["create"], ["get", "update"], ["tidb-backup-webhook"])
    assert create["resources"] == own["resources"] == ["secrets"]


def test_the_network_admits_metacontroller_to_the_hooks_and_prometheus_to_the_metrics() -> None:
    hooks_rule, metrics_rule = one("NetworkPolicy", "tidb-backup-webhook")["spec"]["ingress"]
    for rule, port, namespace in ((hooks_rule, "https", "metacontroller"), (metrics_rule, "metrics", "monitoring")):
        (peer,) = rule["from"]
        assert peer == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
        assert [item["port"] for item in rule["ports"]] == [port]
    assert "ingress" not in one("NetworkPolicy", "tidb-backup-rotator")["spec"]


def test_the_rotator_is_confined_like_the_webhook() -> None:
    pod = one("Deployment", "tidb-backup-rotator")["spec"]["template"]["spec"]
    webhook = one("Deployment", "tidb-backup-webhook")["spec"]["template"]["spec"]
    (container,), (hooks_container,) = pod["containers"], webhook["containers"]
    assert container["image"] == hooks_container["image"]
    assert container["command"] == ["python", "-m", "rotator"]
    assert container["securityContext"] == hooks_container["securityContext"]
    assert pod["securityContext"] == {key: value for key, value in webhook["securityContext"].items() if key != "fsGroup"}


def test_every_route_that_metacontroller_calls_is_served() -> None:
    from app.main import app

    served = {route.path for route in app.routes if "POST" in (getattr(route, "methods", None) or ())}  # type: ignore[attr-defined]
    called = {"/" + hook["webhook"]["url"].split("/", 3)[3].partition("?")[0] for _, _, hook in hooks()}
    assert called <= served


def test_the_children_that_a_hook_may_make_are_the_ones_that_are_watched() -> None:
    from app.service import KINDS

    plurals = {"jobs": "Job", "backups": "Backup", "compactbackups": "CompactBackup"}
    watched = {
        controller["metadata"]["name"].removeprefix("tidb-"): {
            f"{plurals[child['resource']]}.{child['apiVersion']}" for child in controller["spec"]["childResources"]
        }
        for controller in of_kind("CompositeController")
    }
    assert {kind.path for kind in KINDS} == set(watched)
    kind: Kind[Any]
    for kind in KINDS:
        assert kind.child_kind in watched[kind.path]


def test_the_pod_of_the_webhook_is_confined() -> None:
    pod = one("Deployment", "tidb-backup-webhook")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "fsGroup": 65532,  # reads the mounted key
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["memory"]
    assert (container["livenessProbe"]["httpGet"]["path"], container["readinessProbe"]["httpGet"]["path"]) == (
        "/healthz",
        "/readyz",
    )


def test_the_webhook_survives_the_loss_of_a_node() -> None:
    deployment, budget = one("Deployment", "tidb-backup-webhook"), one("PodDisruptionBudget", "tidb-backup-webhook")
    labels = deployment["spec"]["selector"]["matchLabels"]
    assert deployment["spec"]["replicas"] >= 2
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert budget["spec"]["selector"]["matchLabels"] == labels
    assert one("Service", "tidb-backup-webhook")["spec"]["selector"] == labels
    (term,) = deployment["spec"]["template"]["spec"]["affinity"]["podAntiAffinity"][
        "preferredDuringSchedulingIgnoredDuringExecution"
    ]
    assert term["podAffinityTerm"]["labelSelector"]["matchLabels"] == labels


def test_the_settings_are_ones_that_the_webhook_reads() -> None:
    from app.settings import Settings

    lines = (MANIFESTS / "base" / "settings.env").read_text().splitlines()
    given = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    for overlay in OVERLAYS:
        (generator,) = kustomization(MANIFESTS / "overlays" / overlay)["configMapGenerator"]
        literals = dict(literal.split("=", 1) for literal in generator["literals"])
        assert set(literals) <= set(given), f"{overlay} sets what the base does not list"
        known = {f"TIDB_BACKUP_{field.upper()}" for field in Settings.model_fields}
        assert set(given) <= known
        with pytest.MonkeyPatch.context() as patch:
            for key, value in {**given, **literals}.items():
                patch.setenv(key, value)
            settings = Settings()
        assert settings.manager_image.endswith(f":{project()['project']['version']}")


def test_the_policy_names_what_the_manager_writes() -> None:
    text = (MANIFESTS / "base" / "report-policy.yaml").read_text()
    assert f"\"'{names.REPORT_ANNOTATION}'\"" in text
    assert f"'{names.OWNER_UID_LABEL}' in oldObject" in text
    assert f"':{names.SERVICE_ACCOUNT}'" in text
    assert f"authorizer.group('{names.REPORT_GROUP}').resource('jobreports')" in text
    assert f"<= {report.MAX_BYTES}" in text
    assert one("ValidatingAdmissionPolicy", "tidb-backup-reports")["spec"]["failurePolicy"] == "Fail"


def test_each_policy_is_bound_and_denies() -> None:
    bound = {obj["spec"]["policyName"]: obj["spec"]["validationActions"] for obj in of_kind("ValidatingAdmissionPolicyBinding")}
    assert bound == {obj["metadata"]["name"]: ["Deny"] for obj in of_kind("ValidatingAdmissionPolicy")}


def test_metacontroller_may_do_what_the_controllers_need_and_no_wildcard() -> None:
    held = rights(one("ClusterRole", "metacontroller")["rules"])
    assert not [right for right in held if "*" in right]
    needed: Rights = rights(RULES)  # nobody can grant what he does not hold
    for controller in controllers():
        parents = controller["spec"].get("resources") or [controller["spec"]["parentResource"]]
        for parent in parents:
            group = parent["apiVersion"].rpartition("/")[0]
            needed |= {(group, parent["resource"], verb) for verb in ("get", "list", "watch")}
        for parent in parents if controller["kind"] == "CompositeController" else []:
            needed |= {(group, parent["resource"], "update"), (group, f"{parent['resource']}/status", "update")}
        for child in controller["spec"].get("childResources") or controller["spec"]["attachments"]:
            group = child["apiVersion"].rpartition("/")[0]
            needed |= {(group, child["resource"], verb) for verb in ("get", "list", "watch", "create", "delete", "update")}
    assert needed <= held
    # It presents a token of a Secret, and reads Secrets through a cache of all of them: docs/adr/0005-webhook-caller.md.
    assert {right[2] for right in held if right[1] == "secrets"} == {"get", "list", "watch"}
    assert not [right for right in held if right[1] in {"configmaps", "pods/exec"}]
    assert not [right for right in held if right[2] in {"escalate", "bind", "impersonate"}]
