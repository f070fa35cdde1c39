"""A CompositeController at work. The order of one pass is Metacontroller's own: finalizer, claims, related objects, hook,
resync, ``finalized``, labels, children (deletes first), and the status last, also when children could not be written."""

from functools import partial
from typing import Final

from sandbox.api import CRDS, Object, deleting, metadata_of, name_of, namespace_of, uid_of
from sandbox.informer import Informer
from sandbox.standins.metacontroller.answers import SyncAnswer
from sandbox.standins.metacontroller.children import Children, Manager, Method, group, kind_key, method_of, object_key
from sandbox.standins.metacontroller.controller import Controller, Key, SyncErrors, key_of
from sandbox.standins.metacontroller.ownership import Claims, controller_of
from sandbox.standins.metacontroller.parents import GoneError, ParentWriter
from sandbox.standins.metacontroller.selectors import matches
from sandbox.standins.metacontroller.webhook import HookError

SELECTOR_LABEL: Final = "controller-uid"
_SYNC_WAIT: Final = 10.0


class CompositeController(Controller):
    """See the module."""

    def connect(self) -> None:
        """Read the spec, start the informers, listen."""
        spec = self.controller["spec"]
        self._generate = bool(spec.get("generateSelector"))
        rule = spec["parentResource"]
        self._parent_labels = rule.get("labelSelector")
        self._ignore_status = bool(rule.get("ignoreStatusChanges"))
        self._parents = self.informers.synced(rule["apiVersion"], rule["resource"], seconds=_SYNC_WAIT)
        self._require_status(rule["apiVersion"], rule["resource"])
        self._writer = ParentWriter(self.api, self._parents.resource, f"metacontroller.io/compositecontroller-{self.name}")
        self._children: list[Informer] = []
        self._methods: dict[str, Method] = {}
        for child in spec.get("childResources") or ():
            informer = self.informers.synced(child["apiVersion"], child["resource"], seconds=_SYNC_WAIT)
            self._children.append(informer)
            key = kind_key(child["apiVersion"], informer.resource.kind)
            self._methods[key] = method_of(child, f"childResources {child['resource']}")
        self._parents.add_handler(self._on_parent)
        for informer in self._children:
            informer.add_handler(self._on_child)

    def disconnect(self) -> None:
        """Stop listening."""
        self._parents.remove_handler(self._on_parent)
        for informer in self._children:
            informer.remove_handler(self._on_child)

    def _require_status(self, api_version: str, plural: str) -> None:
        crd_group, _, version = api_version.rpartition("/")
        crd = self.api.get(CRDS, "", f"{plural}.{crd_group}")
        served: Object = next((item for item in crd["spec"]["versions"] if item["name"] == version), {})
        if "status" not in (served.get("subresources") or {}):
            raise HookError(f"parent CRD {plural}.{crd_group} {version} has no status subresource; this controller is ignored")

    def parents(self) -> list[tuple[Key, Object]]:
        """The parents in the cache that match our labels, or still carry our finalizer."""
        mine = (parent for parent in self._parents.all() if self._is_mine(parent))
        return [(key_of(self._parents, parent), parent) for parent in mine]

    def _is_mine(self, parent: Object) -> bool:
        return matches(self._parent_labels, metadata_of(parent).get("labels")) or self._writer.has_finalizer(parent)

    # What wakes a parent

    def _on_parent(self, old: Object | None, new: Object | None) -> None:
        if old and new and self._ignore_status and not _changed(old, new):
            return
        obj = new or old
        if obj:
            self.queue.add(key_of(self._parents, obj))

    def _on_child(self, old: Object | None, new: Object | None) -> None:
        for child in (old, new):
            controller = controller_of(child) if child else None
            if controller and child:
                parent = self._parents.get(namespace_of(child), controller["name"]) or self._parents.get("", controller["name"])
                if parent and uid_of(parent) == controller["uid"]:
                    self.queue.add(key_of(self._parents, parent))
            elif child:
                self._wake_adopters(child)

    def _wake_adopters(self, orphan: Object) -> None:
        if self._generate:
            wanted = (metadata_of(orphan).get("labels") or {}).get(SELECTOR_LABEL)
            candidates = [(key, parent) for key, parent in self.parents() if uid_of(parent) == wanted] if wanted else []
        else:
            candidates = [item for item in self.parents() if self._selects(item[1], orphan)]
        for key, _ in candidates:
            self.queue.add(key)

    # One pass

    def _selects(self, parent: Object, obj: Object) -> bool:
        labels = metadata_of(obj).get("labels") or {}
        if self._generate:
            return bool(labels.get(SELECTOR_LABEL) == uid_of(parent))
        selector = (parent.get("spec") or {}).get("selector")
        return bool(selector) and matches(selector, labels)

    def sync(self, key: Key) -> None:
        """One pass."""
        parent = self._parents.get(key[2], key[3])
        if parent is None:
            return
        if not self._is_mine(parent):
            return
        selected = matches(self._parent_labels, metadata_of(parent).get("labels"))
        if not self._generate and not (parent.get("spec") or {}).get("selector"):
            raise HookError("parent has no spec.selector and generateSelector is not set")
        try:
            parent = self.sync_finalizer(self._writer, parent)
        except GoneError:
            return
        observed = self._claim(parent)
        request = {"parent": parent, "children": observed, "related": self._related.objects(parent)}
        body, strict = self.call(request, finalizing=deleting(parent) or not selected)
        answer = SyncAnswer.parse_composite(body, strict=strict)
        if answer.resync_after > 0:
            self.queue.add_after(key, answer.resync_after)
        self._settle(parent, observed, answer)

    def _claim(self, parent: Object) -> Children:
        claims = Claims(self.api, self._parents.resource, parent, partial(self._selects, parent))
        observed: Children = {}
        for informer in self._children:
            claimed = claims.claim(informer.resource, informer.all())
            observed[kind_key(informer.resource.api_version, informer.resource.kind)] = {
                object_key(obj): obj for obj in claimed
            }
        return observed

    def _settle(self, parent: Object, observed: Children, answer: SyncAnswer) -> None:
        if answer.finalized and self._writer.has_finalizer(parent):
            try:
                parent = self._writer.set_finalizer(parent, wanted=False)
            except GoneError:
                return
        desired = group([self._labelled(parent, child) for child in answer.children])
        errors: list[Exception] = []
        if not deleting(parent) or self._writer.may_finalize(parent):
            errors = Manager(self.api, parent, self._methods).manage(observed, desired)
        # A status write that ends in a conflict or finds nobody takes the children's errors with it, as in the real one.
        if self._writer.write_status(parent, answer.status) and errors:
            raise SyncErrors(errors)

    def _labelled(self, parent: Object, child: Object) -> Object:
        metadata = dict(child["metadata"])
        if namespace_of(parent):
            metadata.setdefault("namespace", namespace_of(parent))
        labels = dict(metadata.get("labels") or {})
        if self._generate:
            labels.setdefault(SELECTOR_LABEL, uid_of(parent))
            metadata["labels"] = labels
        labelled = {**child, "metadata": metadata}
        if not self._selects(parent, labelled):
            raise HookError(f"labels on desired child {child['kind']} {name_of(child)} don't match parent selector")
        return labelled


def _changed(old: Object, new: Object) -> bool:
    before, after = metadata_of(old), metadata_of(new)
    fields = ("generation", "labels", "annotations")
    return any(before.get(field) != after.get(field) for field in fields) or deleting(new)
