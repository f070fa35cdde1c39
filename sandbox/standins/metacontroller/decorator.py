"""A DecoratorController at work: labels, annotations, status and finalizer of an object first, attachments after them."""

from typing import Final

from sandbox.api import Api, ApiError, Object, deleting, metadata_of, uid_of
from sandbox.informer import Informer
from sandbox.standins.metacontroller import apply
from sandbox.standins.metacontroller.answers import SyncAnswer
from sandbox.standins.metacontroller.children import Children, Manager, Method, group, kind_key, method_of, object_key
from sandbox.standins.metacontroller.controller import Controller, Key, SyncErrors, key_of
from sandbox.standins.metacontroller.ownership import controller_of
from sandbox.standins.metacontroller.parents import GoneError, ParentWriter
from sandbox.standins.metacontroller.selectors import matches

DECORATOR_ANNOTATION: Final = "metacontroller.k8s.io/decorator-controller"
_SYNC_WAIT: Final = 10.0


class DecoratorController(Controller):
    """See the module."""

    def connect(self) -> None:
        """Read the spec, start the informers, listen."""
        spec = self.controller["spec"]
        self._finalizer = f"metacontroller.io/decoratorcontroller-{self.name}"
        self._rules = {(rule["apiVersion"], rule["resource"]): rule for rule in spec["resources"]}
        self._objects = [self.informers.synced(*pair, seconds=_SYNC_WAIT) for pair in self._rules]
        self._attachments: list[Informer] = []
        self._methods: dict[str, Method] = {}
        for rule in spec.get("attachments") or ():
            informer = self.informers.synced(rule["apiVersion"], rule["resource"], seconds=_SYNC_WAIT)
            self._attachments.append(informer)
            self._methods[kind_key(rule["apiVersion"], informer.resource.kind)] = method_of(
                rule, f"attachments {rule['resource']}"
            )
        self._handlers = [(informer, self._waker(informer)) for informer in self._objects]
        for informer, handler in self._handlers:
            informer.add_handler(handler)
        for informer in self._attachments:
            informer.add_handler(self._on_attachment)

    def disconnect(self) -> None:
        """Stop listening."""
        for informer, handler in self._handlers:
            informer.remove_handler(handler)
        for informer in self._attachments:
            informer.remove_handler(self._on_attachment)

    def parents(self) -> list[tuple[Key, Object]]:
        """The objects in the cache that match our selectors, or still carry our finalizer."""
        everything = ((key_of(informer, obj), obj) for informer in self._objects for obj in informer.all())
        return [(key, obj) for key, obj in everything if self._is_ours(key, obj)]

    def _is_ours(self, key: Key, obj: Object) -> bool:
        return self._selected(key, obj) or self._finalizer in (metadata_of(obj).get("finalizers") or ())

    def _waker(self, informer: Informer) -> "Wake":
        return Wake(self, informer)

    def _on_attachment(self, old: Object | None, new: Object | None) -> None:
        for attachment in (old, new):
            controller = controller_of(attachment) if attachment else None
            if controller:
                for key, obj in self.parents():
                    if uid_of(obj) == controller["uid"]:
                        self.queue.add(key)

    def _selected(self, key: Key, obj: Object) -> bool:
        rule, metadata = self._rules[key[0], key[1]], metadata_of(obj)
        return matches(rule.get("labelSelector"), metadata.get("labels")) and matches(
            rule.get("annotationSelector"), metadata.get("annotations")
        )

    def sync(self, key: Key) -> None:
        """One pass."""
        informer = self.informers.of(key[0], key[1])
        obj = informer.get(key[2], key[3])
        if obj is None:
            return
        if not self._is_ours(key, obj):
            return
        writer = ParentWriter(self.api, informer.resource, self._finalizer)
        selected = self._selected(key, obj)
        try:
            obj = self.sync_finalizer(writer, obj)
        except GoneError:
            return
        observed = self._observed(obj)
        request = {"object": obj, "attachments": observed, "related": self._related.objects(obj)}
        body, strict = self.call(request, finalizing=deleting(obj) or not selected)
        answer = SyncAnswer.parse_decorator(body, strict=strict)
        if answer.resync_after > 0:
            self.queue.add_after(key, answer.resync_after)
        self._settle(informer, writer, obj, observed, answer)

    def _observed(self, obj: Object) -> Children:
        observed: Children = {}
        for informer in self._attachments:
            mine = [item for item in informer.all() if self._is_mine(obj, item)]
            observed[kind_key(informer.resource.api_version, informer.resource.kind)] = {
                object_key(item): item for item in mine
            }
        return observed

    def _is_mine(self, obj: Object, attachment: Object) -> bool:
        annotations = metadata_of(attachment).get("annotations") or {}
        controller = controller_of(attachment) or {}
        return controller.get("uid") == uid_of(obj) and annotations.get(DECORATOR_ANNOTATION) == self.name

    def _settle(self, informer: Informer, writer: ParentWriter, obj: Object, observed: Children, answer: SyncAnswer) -> None:
        try:
            fresh = decorate(self.api, informer, obj, answer, drop_finalizer=writer.finalizer if answer.finalized else "")
        except ApiError as error:
            if error.status in {404, 409}:
                return  # seen too late: the next event brings the newer object
            raise
        if deleting(fresh) and not writer.may_finalize(fresh):
            return
        errors = Manager(self.api, fresh, self._methods, self._marked).manage(observed, group(answer.children))
        if errors:
            raise SyncErrors(errors)

    def _marked(self, attachment: Object) -> Object:
        metadata = attachment["metadata"]
        annotations = {**(metadata.get("annotations") or {}), DECORATOR_ANNOTATION: self.name}
        return {**attachment, "metadata": {**metadata, "annotations": annotations}}


class Wake:
    """Puts the changed object of one informer on the controller's queue."""

    def __init__(self, controller: DecoratorController, informer: Informer) -> None:
        self._controller = controller
        self._informer = informer

    def __call__(self, old: Object | None, new: Object | None) -> None:
        """The handler."""
        obj = new or old
        if obj:
            self._controller.queue.add(key_of(self._informer, obj))


def decorate(api: Api, informer: Informer, obj: Object, answer: SyncAnswer, *, drop_finalizer: str) -> Object:
    """Write labels, annotations, finalizer and status onto the object *as the hook saw it*: its resourceVersion guards the
    write. A null label or annotation is deleted; no status means no change."""
    metadata = dict(obj["metadata"])
    for field, changes in (("labels", answer.labels), ("annotations", answer.annotations)):
        merged = {**(metadata.get(field) or {}), **changes}
        kept = {key: value for key, value in merged.items() if value is not None}
        if kept != (metadata.get(field) or {}):
            metadata[field] = kept
    if drop_finalizer in (metadata.get("finalizers") or ()):
        metadata["finalizers"] = [item for item in metadata["finalizers"] if item != drop_finalizer]
    changed = {**obj, "metadata": metadata}
    if answer.status is not None and not apply.same(obj.get("status"), answer.status):
        changed["status"] = apply.go_json(answer.status)
        changed["metadata"] = api.replace(informer.resource, {**changed, "metadata": obj["metadata"]}, "status")["metadata"]
        changed["metadata"] = {**metadata, "resourceVersion": changed["metadata"]["resourceVersion"]}
    if metadata != obj["metadata"]:
        return api.replace(informer.resource, changed)
    return changed
