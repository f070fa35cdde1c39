"""The rights of labelled namespaces: what is granted, what is kept, what is refused."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.builders.namespace import ROLE, RULES, build_rights
from app.domain.config import Config
from app.hooks.namespace import NamespaceRequestError, sync
from crds.contract import names

KINDS = {
    "ServiceAccount": "ServiceAccount.v1",
    "Role": "Role.rbac.authorization.k8s.io/v1",
    "RoleBinding": "RoleBinding.rbac.authorization.k8s.io/v1",
}


def request(*observed: dict[str, Any], **namespace: Any) -> dict[str, Any]:
    attachments: dict[str, dict[str, Any]] = {outer: {} for outer in KINDS.values()}
    for obj in observed:
        attachments[KINDS[obj["kind"]]][f"{obj['metadata']['namespace']}/{obj['metadata']['name']}"] = obj
    parent = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", **namespace}, "status": {"phase": "Active"}}
    return {"controller": {}, "object": parent, "attachments": attachments, "related": {}, "finalizing": False}


def answer(body: dict[str, Any], config: Config | None = None) -> list[dict[str, Any]]:
    decoded = orjson.loads(sync(body, config or Config()))
    # A status would replace the Namespace's own; labels and annotations are not ours either. Unknown fields are refused.
    assert set(decoded) == {"attachments"}
    attachments: list[dict[str, Any]] = decoded["attachments"]
    return attachments


def role(name: str, rules: list[dict[str, Any]]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "shop", "uid": "1", "resourceVersion": "7", "managedFields": []}
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata, "rules": rules}


def test_a_fresh_namespace_gets_an_account_and_its_rights() -> None:
    account, binding, granted = sorted(answer(request()), key=lambda obj: (obj["kind"] == "Role", obj["kind"] == "RoleBinding"))
    assert (account["kind"], account["metadata"]["name"]) == ("ServiceAccount", names.SERVICE_ACCOUNT)
    assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": ROLE}
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": names.SERVICE_ACCOUNT, "namespace": "shop"}]
    assert granted["rules"] == [dict(rule) for rule in RULES]
    assert {obj["metadata"]["namespace"] for obj in (account, binding, granted)} == {"shop"}


def test_the_account_is_the_one_that_jobs_run_as() -> None:
    rights = build_rights("shop", Config(service_account="nightly"))
    assert rights[0]["metadata"]["name"] == "nightly"
    assert rights[2]["subjects"][0]["name"] == "nightly"


def test_no_right_reaches_secrets_or_other_kinds_of_write() -> None:
    granted = {
        (group, resource, verb)
        for rule in RULES
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert not {
        grant for grant in granted if grant[1] in {"secrets", "configmaps", "serviceaccounts", "roles", "*"} or grant[2] == "*"
    }
    writes = {grant for grant in granted if grant[2] not in {"get", "list"}}
    assert writes == {
        ("batch", "jobs", "patch"),
        (names.REPORT_GROUP, "jobreports", "report"),
        ("", "events", "create"),
        ("", "events", "patch"),
        ("coordination.k8s.io", "leases", "create"),
        ("coordination.k8s.io", "leases", "update"),
    }


def test_the_role_does_not_hide_behind_the_one_of_tidb_operator() -> None:
    assert "tidb-backup-manager" not in {obj["metadata"]["name"] for obj in build_rights("shop", Config())[1:]}


def test_a_role_of_an_older_version_is_brought_up_to_date() -> None:
    (granted,) = (obj for obj in answer(request(role(ROLE, []))) if obj["kind"] == "Role")
    assert granted["rules"] == [dict(rule) for rule in RULES]


def test_an_attachment_that_is_not_made_any_more_is_kept_as_it_is() -> None:
    old = role("tidb-backup-old", [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}])
    (kept,) = (obj for obj in answer(request(old)) if obj["metadata"]["name"] == "tidb-backup-old")
    assert kept == {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "tidb-backup-old", "namespace": "shop"},
        "rules": old["rules"],
    }


@pytest.mark.parametrize("going", [{"deletionTimestamp": "2026-01-01T00:00:00Z"}, {}])
def test_nothing_is_made_in_a_namespace_that_is_going(going: dict[str, str]) -> None:
    body = request(role(ROLE, []), **going)
    if not going:
        body["object"]["status"]["phase"] = "Terminating"
    assert [(obj["kind"], obj["metadata"]["name"]) for obj in answer(body)] == [("Role", ROLE)]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("object", None, "field object"),
        ("object", {"kind": "Secret", "metadata": {"name": "x"}}, "field object"),
        ("object", {"kind": "Namespace", "metadata": {}}, "field object"),
        ("attachments", None, "field attachments"),
        ("attachments", {"Role.rbac.authorization.k8s.io/v1": None}, "field attachments"),
        ("attachments", [], "field attachments"),
    ],
)
def test_a_broken_request_is_an_error_and_never_an_empty_answer(field: str, value: Any, message: str) -> None:
    with pytest.raises(NamespaceRequestError, match=message):
        sync({**request(), field: value}, Config())


NAMES = st.from_regex(r"[a-z]([-a-z0-9]{0,8}[a-z0-9])?", fullmatch=True)


@given(st.lists(st.tuples(st.sampled_from(sorted(KINDS)), NAMES), max_size=8), st.booleans())
def test_every_observed_attachment_stays_and_the_answer_is_a_fixpoint(observed: list[tuple[str, str]], going: bool) -> None:
    objects = [
        {
            "apiVersion": KINDS[kind].partition(".")[2],
            "kind": kind,
            "metadata": {"name": name, "namespace": "shop"},
            "rules": [],
        }
        for kind, name in observed
    ]
    body = request(*objects, **({"deletionTimestamp": "2026-01-01T00:00:00Z"} if going else {}))
    first = answer(body)
    answered = {(obj["kind"], obj["metadata"]["name"]) for obj in first}
    assert set(observed) <= answered
    assert len(answered) == len(first)
    again = request(*first, **({"deletionTimestamp": "2026-01-01T00:00:00Z"} if going else {}))
    assert {(obj["kind"], obj["metadata"]["name"]) for obj in answer(again)} == answered
    assert sync(body, Config()) == sync(body, Config())
