"""The stand-in for Metacontroller against the facts tried on the real one, on a real API server.

With ``METACONTROLLER_BIN`` set the same tests run against the real binary, except those that need the cache knob.
"""

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest

from sandbox import Cluster, patience
from sandbox.api import CONFIG_MAPS, CRDS, EVENTS, JOBS, NAMESPACES, Api, ApiError, Object, Resource, uid_of
from sandbox.components import METACONTROLLER_BIN
from tests.support.hook_server import Answer, HookServer, Raw, hook_server

pytestmark = pytest.mark.e2e

THINGS = Resource("tests.sandbox/v1", "things", "Thing", namespaced=True)
CONTROLLERS = Resource("metacontroller.k8s.io/v1alpha1", "compositecontrollers", "CompositeController", namespaced=False)
_numbers = itertools.count(1)


def crd(plural: str, kind: str, *, status: bool) -> Object:
    free = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version: Object = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": free, "status": free}}},
    }
    if status:
        version["subresources"] = {"status": {}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.tests.sandbox"},
        "spec": {
            "group": "tests.sandbox",
            "scope": "Namespaced",
            "names": {"plural": plural, "singular": kind.lower(), "kind": kind, "listKind": f"{kind}List"},
            "versions": [version],
        },
    }


@pytest.fixture(scope="module")
def things(cluster: Cluster) -> None:
    """The parent kind, and one that lacks the status subresource."""
    cluster.api.create(CRDS, crd("things", "Thing", status=True))
    cluster.api.create(CRDS, crd("plainthings", "PlainThing", status=False))
    until(lambda: served(cluster.api))


def served(api: Api) -> bool:
    with suppress(ApiError):
        api.list(THINGS)
        return True
    return False


def until(condition: Callable[[], Any]) -> Any:
    """Poll *condition* until it is true, and return what it gave."""
    return patience.until(condition, "what the test waits for", poll=0.02)


class World:
    """One controller with scripted hooks, its parents told from other tests' by a label."""

    def __init__(self, cluster: Cluster, namespace: str, hooks: HookServer) -> None:
        self.cluster, self.api, self.namespace, self.hooks = cluster, cluster.api, namespace, hooks
        self.name = f"stand-in-{os.getpid()}-{next(_numbers)}"

    def control(
        self, sync: Answer, *, finalize: Answer | None = None, customize: Answer | None = None, children: str = "", **spec: Any
    ) -> None:
        """Create the CompositeController."""
        routes = {"sync": sync, "finalize": finalize, "customize": customize}
        hooks = {}
        for name, answer in routes.items():
            if answer:
                self.hooks.routes[f"/{name}"] = answer
                hooks[name] = {"version": "v2", "webhook": {"url": self.hooks.url(f"/{name}"), **spec.pop(f"{name}_hook", {})}}
        parent = {"apiVersion": "tests.sandbox/v1", "resource": "things", "labelSelector": {"matchLabels": {"test": self.name}}}
        child_resources = [
            {"apiVersion": "v1", "resource": "configmaps", "updateStrategy": {"method": children}},
            {"apiVersion": "batch/v1", "resource": "jobs"},
        ]
        body = {"generateSelector": True, "parentResource": parent, "childResources": child_resources, "hooks": hooks, **spec}
        self.api.create(
            CONTROLLERS,
            {
                "apiVersion": CONTROLLERS.api_version,
                "kind": CONTROLLERS.kind,
                "metadata": {"name": self.name},
                "spec": body,
            },
        )

    def create(self, name: str = "thing", **spec: Any) -> Object:
        """Create a parent."""
        metadata = {"name": name, "namespace": self.namespace, "labels": {"test": self.name}}
        return self.api.create(THINGS, {"apiVersion": THINGS.api_version, "kind": "Thing", "metadata": metadata, "spec": spec})

    def thing(self, name: str = "thing") -> Object | None:
        return self.api.find(THINGS, self.namespace, name)

    def status(self, name: str = "thing") -> Object:
        found: Object = (self.thing(name) or {}).get("status") or {}
        return found

    def touch(self, name: str = "thing", value: str = "") -> None:
        """Wake the parent."""
        text = value or str(time.monotonic_ns())
        self.api.patch(THINGS, self.namespace, name, {"metadata": {"annotations": {"touched": text}}})

    def child(self, name: str) -> Object | None:
        return self.api.find(CONFIG_MAPS, self.namespace, name)

    def falls_quiet(self) -> None:
        """Wait for two seconds without a call: a loop never has them."""

        def quiet() -> bool:
            before = len(self.calls())
            time.sleep(2)
            return len(self.calls()) == before

        until(quiet)

    def events(self, about: str = "thing") -> list[str]:
        items = self.api.list(EVENTS, self.namespace)["items"]
        return [item["message"] for item in items if item["involvedObject"]["name"] == about and item["reason"] == "SyncError"]

    def calls(self, path: str = "/sync") -> list[Object]:
        return self.hooks.requests(path)


@pytest.fixture
def world(cluster: Cluster, things: None, namespace: str) -> Iterator[World]:
    with hook_server() as hooks:
        made = World(cluster, namespace, hooks)
        yield made
        with suppress(ApiError):
            cluster.api.delete(CONTROLLERS, "", made.name)
        # A controller that is gone leaves its finalizer behind, as the real one.
        for item in cluster.api.list(THINGS, namespace)["items"]:
            with suppress(ApiError):
                cluster.api.patch(THINGS, namespace, item["metadata"]["name"], {"metadata": {"finalizers": None}})


def config(name: str, **more: Any) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **more.pop("metadata", {})}, **more}


def answer(*children: Object, status: Object | None = None, **more: Any) -> Object:
    return {"status": status or {"phase": "ok"}, "children": list(children), **more}


def test_a_child_is_made_and_the_status_written(world: World) -> None:
    world.control(lambda _: answer(config("one", data={"a": "1"}), status={"phase": "ok", "observedGeneration": 99}))
    parent = world.create()
    until(lambda: world.status() == {"phase": "ok", "observedGeneration": 1})
    child = until(lambda: world.child("one"))
    [owner] = child["metadata"]["ownerReferences"]
    assert owner == {
        "apiVersion": "tests.sandbox/v1",
        "kind": "Thing",
        "name": "thing",
        "uid": uid_of(parent),
        "controller": True,
        "blockOwnerDeletion": True,
    }
    assert child["metadata"]["labels"] == {"controller-uid": uid_of(parent)}
    applied = json.loads(child["metadata"]["annotations"]["metacontroller.k8s.io/last-applied-configuration"])
    assert applied["data"] == {"a": "1"}


def test_the_request_is_the_wire_format(world: World) -> None:
    world.control(lambda _: answer(config("one")))
    world.create(text="x")
    until(lambda: len(world.calls()) >= 2 and world.calls()[-1]["children"]["ConfigMap.v1"])
    first, last = world.calls()[0], world.calls()[-1]
    assert set(first) == {"controller", "parent", "children", "related", "finalizing"}
    assert first["children"] == {"ConfigMap.v1": {}, "Job.batch/v1": {}}
    assert (first["related"], first["finalizing"]) == ({}, False)
    assert first["controller"]["metadata"]["name"] == world.name
    [(key, child)] = last["children"]["ConfigMap.v1"].items()
    assert key == f"{world.namespace}/one"
    assert (child["apiVersion"], child["kind"]) == ("v1", "ConfigMap")
    assert "managedFields" in child["metadata"]


@pytest.mark.parametrize("body", [b"null", b"{}"])
def test_an_empty_answer_deletes_all_children_and_wipes_the_status(world: World, body: bytes) -> None:
    reply: list[Object | Raw] = [answer(config("one"), config("two"))]
    world.control(lambda _: reply[0])
    world.create()
    until(lambda: world.child("two") and world.status().get("phase") == "ok")
    reply[0] = Raw(body=body)
    world.touch()
    until(lambda: not world.child("one") and not world.child("two"))
    until(lambda: world.status() == {"observedGeneration": 1})


def test_a_missing_status_wipes_it(world: World) -> None:
    reply: list[Object] = [answer()]
    world.control(lambda _: reply[0])
    world.create()
    until(lambda: world.status().get("phase") == "ok")
    reply[0] = {"children": []}
    world.touch()
    until(lambda: world.status() == {"observedGeneration": 1})


def test_a_stub_keeps_a_child_untouched(world: World) -> None:
    reply = [answer(config("one", data={"a": "1"}), config("two"))]
    world.control(lambda _: reply[0])
    world.create()
    before = until(lambda: world.child("one"))
    until(lambda: world.child("two"))
    reply[0] = answer(config("one"))
    world.touch()
    until(lambda: not world.child("two"))
    assert world.child("one") == before


def test_in_place_brings_a_changed_child_up_to_date(world: World) -> None:
    reply = [answer(config("one", data={"a": "1", "b": "2"}))]
    world.control(lambda _: reply[0], children="InPlace")
    world.create()
    until(lambda: world.child("one"))
    world.api.patch(CONFIG_MAPS, world.namespace, "one", {"data": {"foreign": "3"}})
    reply[0] = answer(config("one", data={"a": "9"}))
    world.touch()
    until(lambda: (world.child("one") or {}).get("data") == {"a": "9", "foreign": "3"})


def test_an_unknown_field_is_refused_with_growing_delays(world: World) -> None:
    world.control(lambda _: {"childs": []})
    world.create()
    until(lambda: len(world.calls()) >= 9)
    times = world.hooks.times("/sync")
    # 5 ms doubling, however late each call may come: the ninth 1.275 s after the first at the earliest.
    waited = [later - sooner for sooner, later in pairwise(times)]
    assert all(pause >= 0.005 * 2**number * 0.9 for number, pause in enumerate(waited[:8])), waited
    until(lambda: any("unknown field" in message for message in world.events()))


def test_loose_decoding_overlooks_it(world: World) -> None:
    world.control(lambda _: {**answer(), "childs": []}, sync_hook={"responseUnMarshallMode": "loose"})
    world.create()
    until(lambda: world.status().get("phase") == "ok")


def test_a_foreign_controller_uid_label_is_refused(world: World) -> None:
    world.control(lambda _: answer(config("one", metadata={"labels": {"controller-uid": "another"}}), config("two")))
    world.create()
    until(lambda: any("don't match parent selector" in message for message in world.events()))
    assert world.child("one") is None
    assert world.child("two") is None
    assert world.status() == {}


def test_an_error_body_stands_in_an_event_and_nothing_is_written(world: World) -> None:
    reply: list[Object | Raw] = [answer(config("one"))]
    world.control(lambda _: reply[0])
    world.create()
    until(lambda: world.child("one") and world.status().get("phase") == "ok")
    reply[0] = Raw(status=500, body=b"the reason why")
    world.touch()
    until(lambda: any("the reason why" in message for message in world.events()))
    assert world.child("one")
    assert world.status()["phase"] == "ok"
    reply[0] = answer(config("one"), status={"phase": "again"})
    until(lambda: world.status()["phase"] == "again")


def test_429_is_obeyed_without_an_event(world: World) -> None:
    world.control(lambda _: Raw(status=429, headers={"Retry-After": "1"}))
    world.create()
    until(lambda: len(world.calls()) >= 3)
    times = world.hooks.times("/sync")
    assert all(later - sooner >= 0.9 for sooner, later in pairwise(times[:3])), times
    assert world.events() == []


def test_429_without_a_header_is_a_tight_loop(world: World) -> None:
    world.control(lambda _: Raw(status=429))
    world.create()
    until(lambda: len(world.calls()) > 100)


def test_a_float_is_stored_as_integer_and_does_not_loop(world: World) -> None:
    world.control(lambda _: answer(status={"seconds": 300.0}))
    world.create()
    until(lambda: world.status().get("seconds") == 300)
    world.falls_quiet()


def test_a_second_writer_of_the_status_loses(world: World) -> None:
    written: list[Object] = []
    due: list[bool] = []

    def sync(_: Object) -> Object:
        if due and not written:
            # The manager's write lands after the snapshot was taken and before the answer is.
            patch = {"status": {"backupPath": "s3://x"}}
            written.append(world.api.patch(THINGS, world.namespace, "thing", patch, subresource="status"))
        return answer(status={"phase": "new"})

    world.control(sync)
    world.create()
    until(lambda: world.status().get("phase") == "new")
    due.append(True)
    world.touch()
    until(lambda: written)
    assert written[0]["status"]["backupPath"] == "s3://x"
    until(lambda: "backupPath" not in world.status())
    assert world.status()["phase"] == "new"


def test_a_report_reaches_the_status_by_its_own_event(world: World) -> None:
    def sync(request: Object) -> Object:
        jobs = list(request["children"]["Job.batch/v1"].values())
        report = jobs[0]["metadata"].get("annotations", {}).get("report", "none") if jobs else "none"
        return answer(job("work"), status={"report": report})

    world.control(sync)
    world.create()
    until(lambda: world.api.find(JOBS, world.namespace, "work"))
    for number in range(25):
        before = len(world.calls())
        patch = {"metadata": {"annotations": {"report": str(number)}}}
        world.api.patch(JOBS, world.namespace, "work", patch)
        until(lambda: world.status().get("report") == str(number))  # noqa: B023 - called at once
        assert len(world.calls()) - before <= 4, "an event brings it, not a poll"


def job(name: str, command: str = "sleep 300") -> Object:
    container = {"name": "main", "image": "busybox", "command": ["sh", "-c", f"trap 'exit 1' TERM; {command} & wait"]}
    pod = {"restartPolicy": "Never", "containers": [container]}
    spec = {"backoffLimit": 0, "suspend": False, "template": {"spec": pod}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}


def test_the_finalizer_comes_first_and_goes_last(world: World) -> None:
    finalized = [False]
    world.control(
        lambda _: answer(config("one")),
        finalize=lambda _: answer(config("clean"), status={"phase": "cleaning"}, finalized=finalized[0]),
    )
    world.create()
    until(lambda: world.child("one"))
    finalizer = f"metacontroller.io/compositecontroller-{world.name}"
    assert finalizer in world.calls()[0]["parent"]["metadata"]["finalizers"]
    world.api.delete(THINGS, world.namespace, "thing")
    until(lambda: world.child("clean") and not world.child("one"))
    until(lambda: world.status().get("phase") == "cleaning")
    assert world.calls("/finalize")[0]["finalizing"] is True
    finalized[0] = True
    world.touch()
    until(lambda: world.thing() is None)


def test_finalized_is_obeyed_in_a_sync_too(world: World) -> None:
    world.control(lambda _: answer(finalized=True, status={"seen": "yes"}), finalize=lambda _: answer(finalized=True))
    world.create()
    finalizer = f"metacontroller.io/compositecontroller-{world.name}"
    until(lambda: len(world.calls()) >= 4)
    # Removed by each answer, put back before each call.
    assert all(finalizer in call["parent"]["metadata"].get("finalizers", []) for call in world.calls())


def test_a_namespace_waits_for_finalized(world: World) -> None:
    done = [False]
    world.control(lambda _: answer(), finalize=lambda _: answer(config("clean"), finalized=done[0]))
    world.create()
    until(lambda: world.status().get("phase") == "ok")
    world.api.delete(NAMESPACES, "", world.namespace)
    until(lambda: world.calls("/finalize"))
    time.sleep(1.0)
    assert world.child("clean") is None
    live = world.api.get(NAMESPACES, "", world.namespace)
    assert live["status"]["phase"] == "Terminating"
    done[0] = True
    until(lambda: world.api.find(NAMESPACES, "", world.namespace) is None)


def test_orphan_cascade_lets_a_job_run_on_unseen(world: World) -> None:
    done = [False]
    world.control(lambda _: answer(job("work")), finalize=lambda _: answer(config("clean"), finalized=done[0]))
    world.create()
    until(lambda: world.api.find(JOBS, world.namespace, "work"))
    world.api.delete(THINGS, world.namespace, "thing", propagation="Orphan")
    until(lambda: world.child("clean"))
    work = world.api.get(JOBS, world.namespace, "work")
    assert not work["metadata"].get("ownerReferences")
    assert world.calls("/finalize")[-1]["children"]["Job.batch/v1"] == {}
    done[0] = True
    world.touch()
    until(lambda: world.thing() is None)
    assert world.api.find(JOBS, world.namespace, "work")


def test_foreground_cascade_ends_the_job_before_the_clean_up(world: World) -> None:
    seen: list[bool] = []

    def finalize(request: Object) -> Object:
        jobs = request["children"]["Job.batch/v1"]
        seen.append(bool(jobs))
        return answer(*[job("work") for _ in jobs], config("clean"), finalized=bool(world.child("clean")))

    world.control(lambda _: answer(job("work")), finalize=finalize)
    world.create()
    until(lambda: world.api.find(JOBS, world.namespace, "work"))
    world.api.delete(THINGS, world.namespace, "thing", propagation="Foreground")
    until(lambda: world.thing() is None)
    assert world.api.find(JOBS, world.namespace, "work") is None
    assert seen[-1] is False


def test_adoption_and_release(world: World) -> None:
    world.control(lambda request: answer(*[config("mine") for _ in request["children"]["ConfigMap.v1"]]))
    parent = world.create()
    until(lambda: world.status().get("phase") == "ok")
    label = {"controller-uid": uid_of(parent)}
    world.api.create(CONFIG_MAPS, config("mine", metadata={"namespace": world.namespace, "labels": label}))
    until(lambda: (world.child("mine") or {}).get("metadata", {}).get("ownerReferences"))
    world.api.patch(CONFIG_MAPS, world.namespace, "mine", {"metadata": {"labels": None}})
    until(lambda: world.child("mine") and not (world.child("mine") or {})["metadata"].get("ownerReferences"))
    # An adopted child that the hook does not list is deleted.
    world.api.create(CONFIG_MAPS, config("other", metadata={"namespace": world.namespace, "labels": label}))
    until(lambda: world.child("other") is None)


def test_customize_is_asked_once_per_generation_and_brings_any_namespace(world: World) -> None:
    rules = [
        {"apiVersion": "v1", "resource": "namespaces", "names": ["default"]},
        {"apiVersion": "v1", "resource": "configmaps", "namespace": "default", "names": [f"related-{world.namespace}"]},
    ]
    world.control(
        lambda request: answer(status={"related": request["related"]}), customize=lambda _: {"relatedResources": rules}
    )
    world.create()
    until(lambda: world.status().get("related"))
    assert set(world.calls("/customize")[0]) == {"controller", "parent"}
    related = world.status()["related"]
    assert list(related["Namespace.v1"]) == ["default"]
    assert related["ConfigMap.v1"] == {}
    name = f"related-{world.namespace}"
    world.api.create(CONFIG_MAPS, config(name, metadata={"namespace": "default"}, data={"a": "1"}))
    until(lambda: world.status()["related"]["ConfigMap.v1"].get(f"default/{name}", {}).get("data") == {"a": "1"})
    world.api.patch(CONFIG_MAPS, "default", name, {"data": {"a": "2"}})
    until(lambda: world.status()["related"]["ConfigMap.v1"][f"default/{name}"]["data"] == {"a": "2"})
    assert len(world.calls("/customize")) == 1
    world.api.patch(THINGS, world.namespace, "thing", {"spec": {"new": "generation"}})
    until(lambda: len(world.calls("/customize")) == 2)
    world.api.delete(CONFIG_MAPS, "default", name)
    until(lambda: world.status()["related"]["ConfigMap.v1"] == {})


def test_resync_after_is_one_shot_and_the_period_repeats(world: World) -> None:
    world.control(lambda request: answer(resyncAfterSeconds=0.5 if len(world.calls()) < 3 else 0))
    world.create()
    until(lambda: len(world.calls()) >= 3)
    world.falls_quiet()


def test_the_resync_period(world: World) -> None:
    world.control(lambda _: answer(), resyncPeriodSeconds=1)
    world.create()
    until(lambda: world.status().get("phase") == "ok")
    before = len(world.calls())
    until(lambda: len(world.calls()) >= before + 4)
    times = world.hooks.times("/sync")[before:]
    assert len(times) <= times[-1] - times[0] + 2, "one a second, however long that may have taken"


def test_a_parent_without_status_subresource_is_ignored(world: World) -> None:
    parent = {"apiVersion": "tests.sandbox/v1", "resource": "plainthings"}
    world.control(lambda _: answer(), parentResource=parent)
    metadata = {"name": "plain", "namespace": world.namespace}
    plain = Resource("tests.sandbox/v1", "plainthings", "PlainThing", namespaced=True)
    world.api.create(plain, {"apiVersion": plain.api_version, "kind": plain.kind, "metadata": metadata})

    def said() -> bool:
        items = world.api.list(EVENTS, "default")["items"]
        return any(item["involvedObject"]["name"] == world.name and "status" in item["message"] for item in items)

    until(said)
    assert world.calls() == []


@pytest.mark.skipif(METACONTROLLER_BIN in os.environ, reason="the real one has no such knob")
def test_a_late_cache_shows_the_hook_an_old_parent(world: World) -> None:
    def touched(call: Any) -> bool:
        return "touched" in (call["parent"]["metadata"].get("annotations") or {})

    world.control(lambda request: answer(status={"step": str(len(world.calls()))}))
    world.create()
    until(lambda: world.status().get("step"))
    time.sleep(0.5)
    world.cluster.lag_caches(things=2.0)
    try:
        moment = world.hooks.now()
        world.touch()
        until(lambda: any(map(touched, world.calls())))
    finally:
        world.cluster.lag_caches()
    first = next(place for place, call in enumerate(world.calls()) if touched(call))
    assert world.hooks.times("/sync")[first] - moment >= 2.0


def test_a_null_child_ends_the_process(world: World) -> None:
    reply: list[Object | Raw] = [answer()]
    world.control(lambda _: reply[0])
    world.create()
    until(lambda: world.status().get("phase") == "ok")
    reply[0] = Raw(body=b'{"children": [null]}')
    world.touch()
    [record] = [item for item in world.cluster.layout.processes() if item.name == "metacontroller"]
    until(lambda: not record.alive)
    reply[0] = answer(status={"phase": "recovered"})
    world.cluster.start_component("metacontroller")
    until(lambda: world.status().get("phase") == "recovered")


def test_a_decorator_gives_attachments_and_labels(world: World) -> None:
    decorators = Resource("metacontroller.k8s.io/v1alpha1", "decoratorcontrollers", "DecoratorController", namespaced=False)
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "made", "namespace": world.namespace}}
    reply = [{"labels": {"seen": "yes"}, "annotations": {}, "attachments": [account]}]
    world.hooks.routes["/decorate"] = lambda _: reply[0]
    spec = {
        "resources": [
            {"apiVersion": "v1", "resource": "namespaces", "labelSelector": {"matchLabels": {"decorate": world.name}}}
        ],
        "attachments": [{"apiVersion": "v1", "resource": "serviceaccounts"}],
        "hooks": {"sync": {"version": "v2", "webhook": {"url": world.hooks.url("/decorate")}}},
    }
    metadata = {"name": f"decorate-{world.name}"}
    world.api.create(
        decorators, {"apiVersion": decorators.api_version, "kind": decorators.kind, "metadata": metadata, "spec": spec}
    )
    try:
        world.api.patch(NAMESPACES, "", world.namespace, {"metadata": {"labels": {"decorate": world.name}}})
        made = until(lambda: world.cluster.get("ServiceAccount", "made", world.namespace))
        annotations = made["metadata"]["annotations"]
        assert annotations["metacontroller.k8s.io/decorator-controller"] == metadata["name"]
        until(lambda: world.api.get(NAMESPACES, "", world.namespace)["metadata"]["labels"].get("seen") == "yes")
        first = world.calls("/decorate")[0]
        assert set(first) == {"controller", "object", "attachments", "related", "finalizing"}
        until(lambda: world.calls("/decorate")[-1]["attachments"]["ServiceAccount.v1"])
        reply[0] = {"labels": {"seen": None}, "attachments": []}
        world.api.patch(NAMESPACES, "", world.namespace, {"metadata": {"annotations": {"touched": "1"}}})
        until(lambda: world.cluster.get("ServiceAccount", "made", world.namespace) is None)
        until(lambda: "seen" not in world.api.get(NAMESPACES, "", world.namespace)["metadata"]["labels"])
    finally:
        world.api.delete(decorators, "", metadata["name"])
