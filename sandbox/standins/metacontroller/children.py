"""Bringing observed children to the desired ones: deletes first, then creates and updates.

A 404 on update or delete, a 409 on update and an AlreadyExists on create are swallowed: the next event settles it.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Final, Literal

from sandbox.api import Api, ApiError, Object, Resource, deleting, name_of, namespace_of, uid_of
from sandbox.standins.metacontroller import apply
from sandbox.standins.metacontroller.ownership import owner_reference
from sandbox.standins.metacontroller.webhook import HookError

Method = Literal["OnDelete", "InPlace", "Recreate"]
METHODS: Final[tuple[Method, ...]] = ("OnDelete", "InPlace", "Recreate")
Children = dict[str, dict[str, Object]]
"""``Kind.group/version`` -> ``namespace/name`` (or ``name``) -> object, as on the wire."""
_log = logging.getLogger(__name__)


def kind_key(api_version: str, kind: str) -> str:
    """Outer key of the wire format.

    >>> kind_key("v1", "ConfigMap"), kind_key("batch/v1", "Job")
    ('ConfigMap.v1', 'Job.batch/v1')
    """
    return f"{kind}.{api_version}"


def object_key(obj: Object) -> str:
    """Inner key of the wire format v2."""
    namespace = namespace_of(obj)
    return f"{namespace}/{name_of(obj)}" if namespace else name_of(obj)


def group(children: list[Object]) -> Children:
    """Desired children by kind and name."""
    grouped: Children = {}
    for child in children:
        grouped.setdefault(kind_key(child["apiVersion"], child["kind"]), {})[object_key(child)] = child
    return grouped


def method_of(rule: Mapping[str, object], where: str) -> Method:
    """The update method of a child rule; empty means OnDelete. Raises HookError for what the stand-in lacks."""
    strategy = rule.get("updateStrategy") or {}
    method = (strategy.get("method") if isinstance(strategy, Mapping) else None) or "OnDelete"
    for known in METHODS:
        if method == known:
            return known
    raise HookError(f"{where}: update method {method!r} is not in this stand-in; it knows {', '.join(METHODS)}")


class Manager:
    """Writes the children of one parent. *methods* by kind key; *decorate* finishes a child before it is created."""

    def __init__(
        self,
        api: Api,
        parent: Object,
        methods: Mapping[str, Method],
        decorate: Callable[[Object], Object] = lambda child: child,
    ) -> None:
        self._api = api
        self._parent = parent
        self._methods = methods
        self._decorate = decorate

    def manage(self, observed: Children, desired: Children) -> list[Exception]:
        """Do it all, collecting errors rather than stopping at the first."""
        errors: list[Exception] = []
        steps: list[Callable[[], None]] = []
        for kind, children in observed.items():
            wanted = desired.get(kind, {})
            steps += [self._step(self._delete, child) for key, child in children.items() if key not in wanted]
        for kind, children in desired.items():
            known = observed.get(kind, {})
            for key, child in children.items():
                if key in known:
                    steps.append(self._step(self._update, known[key], child, self._methods.get(kind, "OnDelete")))
                else:
                    steps.append(self._step(self._create, child))
        for step in steps:
            try:
                step()
            except ApiError as error:
                errors.append(error)
        return errors

    @staticmethod
    def _step(call: Callable[..., None], *arguments: object) -> Callable[[], None]:
        return lambda: call(*arguments)

    def _resource(self, obj: Object) -> Resource:
        return self._api.resource_of(obj["apiVersion"], obj["kind"])

    def _delete(self, child: Object) -> None:
        if deleting(child):
            return
        _log.info("deleting %s %s", child["kind"], object_key(child))
        try:
            self._api.delete(
                self._resource(child), namespace_of(child), name_of(child), uid=uid_of(child), propagation="Background"
            )
        except ApiError as error:
            if error.status not in {404, 409}:  # 409: another object by that name
                raise

    def _create(self, child: Object) -> None:
        _log.info("creating %s %s", child["kind"], object_key(child))
        finished = self._decorate(apply.remember(child))
        metadata = finished["metadata"]
        references = [*(metadata.get("ownerReferences") or ()), owner_reference(self._parent)]
        finished = {**finished, "metadata": {**metadata, "ownerReferences": references}}
        try:
            self._api.create(self._resource(child), finished)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise

    def _update(self, observed: Object, desired: Object, method: Method) -> None:
        if method == "OnDelete" or deleting(observed):
            return
        merged = apply.update(observed, desired)
        if apply.same(merged, observed):
            return
        if method == "Recreate":
            self._delete(observed)
            return
        _log.info("updating %s %s", observed["kind"], object_key(observed))
        try:
            self._api.replace(self._resource(observed), merged)
        except ApiError as error:
            if error.status not in {404, 409}:
                raise
