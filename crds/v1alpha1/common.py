"""What the four kinds share: how a model behaves, the types of its fields, and the parts that appear in several kinds.

Field names, enums and defaults are TiDB Operator 1.6's. A model refuses what it does not know, takes an explicit null for
absence as the API server does, and states the rules between its fields once, for Python and (as CEL) for the API server.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from crds.contract import durations, sizes, tso
from crds.contract.wire import utc

RULES_BROKEN: Final = "rules_broken"
"""Type of the validation error that carries broken :class:`Rule` objects; its context holds them under ``broken``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule between the fields of one model: *cel* for the API server and *holds* for Python say the same.

    *field* is the one to change (its JSON name), *message* says what is wrong and what to do.
    """

    field: str
    cel: str
    message: str
    holds: Callable[[Any], bool]


class Model(BaseModel):
    """Base of every part of the contract."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        extra="forbid",
        strict=True,
        frozen=True,
        # Built when first used: the Job needs one kind, and starts often.
        defer_build=True,
        # A value may be a credential.
        hide_input_in_errors=True,
    )
    RULES: ClassVar[tuple[Rule, ...]] = ()

    @classmethod
    def rules(cls) -> Iterator[Rule]:
        """The rules of this model, those of its bases first."""
        for base in reversed(cls.__mro__):
            yield from base.__dict__.get("RULES", ())

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            return {key: value for key, value in data.items() if value is not None}
        return data

    @model_validator(mode="after")
    def _keeps_rules(self) -> Self:
        if broken := [rule for rule in self.rules() if not rule.holds(self)]:
            text = "; ".join(rule.message for rule in broken)
            raise PydanticCustomError(RULES_BROKEN, "{text}", {"text": text, "broken": broken})
        return self


def _checked(parse: Callable[[str], object], pattern: str, *, empty: bool) -> tuple[AfterValidator, WithJsonSchema]:
    """A text that *parse* must accept, *pattern* being what the schema can say about it; maybe *empty*."""

    def check(text: str) -> str:
        if text or not empty:
            try:
                parse(text)
            except ValueError as error:
                # The text itself is part of the parser's message: a size or a time, never a secret.
                raise PydanticCustomError("text", "{reason}", {"reason": str(error)}) from None
        return text

    return AfterValidator(check), WithJsonSchema({"type": "string", "pattern": pattern})


_duration = _checked(durations.parse, durations.PATTERN, empty=True)
_span = _checked(durations.parse_span, durations.SPAN_PATTERN, empty=False)
_quantity = _checked(sizes.parse, f"^$|{sizes.PATTERN}", empty=True)
_timestamp = _checked(tso.parse, tso.PATTERN, empty=True)

Duration = Annotated[str, *_duration]
"""A Go duration such as ``72h``; empty for none."""
Span = Annotated[str, *_span]
"""A duration that may count days: ``30d``."""
Quantity = Annotated[str, *_quantity]
"""A Kubernetes quantity such as ``100Gi``; empty for none."""
Timestamp = Annotated[str, *_timestamp]
"""A TSO or a date with time; empty for none."""
Time = Annotated[datetime, Field(strict=False), PlainSerializer(utc, return_type=str, when_used="json")]
"""RFC3339 in UTC with whole seconds, as Kubernetes writes times."""
Int32 = Annotated[int, Field(ge=0, le=2**31 - 1)]
UInt32 = Annotated[int, Field(ge=0, le=2**32 - 1)]
Int64 = Annotated[int, Field(ge=0, le=2**63 - 1), WithJsonSchema({"type": "integer", "format": "int64", "minimum": 0})]
"""The API server reads a schema's bounds as floats, so the largest int64 cannot be one."""

CORE: Final = "x-core-type"
"""Marks a field of a Kubernetes core type; the generator puts that type's own schema in its place."""


def _core(name: str, *required: str) -> tuple[AfterValidator, WithJsonSchema]:
    """A dict holding the core type *name*; the API server knows all of it, Python only asks for the *required* keys."""

    def check(value: dict[str, Any]) -> dict[str, Any]:
        if missing := [key for key in required if not value.get(key)]:
            raise PydanticCustomError("core", "{reason}", {"reason": f"{', '.join(missing)} is missing; set it"})
        return value

    return AfterValidator(check), WithJsonSchema({CORE: name})


def _resources(value: dict[str, Any]) -> dict[str, Any]:
    for part in ("limits", "requests"):
        amounts = value.get(part) or {}
        if not isinstance(amounts, dict):
            raise PydanticCustomError("core", "{reason}", {"reason": f"{part} must be an object; set its fields"})
        for name, amount in amounts.items():
            try:
                sizes.parse(str(amount))
            except ValueError as error:
                raise PydanticCustomError("core", "{reason}", {"reason": f"{part}.{name}: {error}"}) from None
    return value


Affinity = Annotated[dict[str, Any], *_core("Affinity")]
EnvVar = Annotated[dict[str, Any], *_core("EnvVar", "name")]
LocalObjectReference = Annotated[dict[str, Any], *_core("LocalObjectReference")]
PodSecurityContext = Annotated[dict[str, Any], *_core("PodSecurityContext")]
ResourceRequirements = Annotated[dict[str, Any], *_core("ResourceRequirements"), AfterValidator(_resources)]
Toleration = Annotated[dict[str, Any], *_core("Toleration")]
Volume = Annotated[dict[str, Any], *_core("Volume", "name")]
VolumeMount = Annotated[dict[str, Any], *_core("VolumeMount", "name", "mountPath")]

BackupType = Literal["", "full", "raw", "db", "table", "tiflash-replica"]
"""Declared upstream; ``raw`` and ``tiflash-replica`` are refused when a CR is validated."""


class TiDBAccess(Model):
    """How to reach a TiDB server."""

    host: str = Field(min_length=1, description="Host name of the TiDB server.")
    port: int | None = Field(default=None, ge=1, le=65535, description="Port of the TiDB server; 4000 when absent.")
    user: str = Field(default="", description="User to log in with; root when empty.")
    secret_name: str = Field(description="Secret that holds the user's password under the key password.")
    tls_client_secret_name: str | None = Field(default=None, description="Secret with the client certificate, for TLS.")


class BRConfig(Model):
    """What br works on, and how."""

    cluster: str = Field(description="Name of the TidbCluster.")
    cluster_namespace: str = Field(default="", description="Namespace of the TidbCluster; the resource's own when empty.")
    db: str = Field(default="", description="Database, for backupType db and table. Prefer tableFilter.")
    table: str = Field(default="", description="Table, for backupType table. Prefer tableFilter.")
    log_level: str = Field(default="", description="br's --log-level.")
    status_addr: str = Field(default="", description="br's --status-addr.")
    concurrency: UInt32 | None = Field(default=None, description="br's --concurrency: threads of each node.")
    rate_limit: Int64 | None = Field(default=None, description="br's --ratelimit: MB/s of each node.")
    time_ago: str = Field(default="", description="br's --timeago: back up the data as it was this long ago.")
    checksum: bool | None = Field(default=None, description="br's --checksum: compare checksums at the end.")
    check_requirements: bool | None = Field(default=None, description="br's --check-requirements: compare versions first.")
    send_cred_to_tikv: bool | None = Field(
        default=None, description="br's --send-credentials-to-tikv: hand br's storage credentials to TiKV."
    )
    on_line: bool | None = Field(default=None, description="br's --online: restore while the cluster serves.")
    options: list[str] = Field(default_factory=list, description="Further flags for br; they win over all fields above.")


class BackoffRetryPolicy(Model):
    """How often, and when, a run that failed for a passing reason is repeated."""

    min_retry_duration: Duration = Field(default="300s", description="Wait before the first retry; doubles with each.")
    max_retry_times: Int32 = Field(default=2, description="How many retries there may be.")
    retry_timeout: Duration = Field(default="30m", description="No retry begins this long after the first failure.")


class Condition(Model):
    """One condition of a resource."""

    command: str = Field(default="", description="The log backup's sub-command that it is about.")
    type: str = Field(description="What it is about, in CamelCase.")
    status: str = Field(description="True, False or Unknown.")
    reason: str = Field(default="", description="Why, in CamelCase.")
    message: str = Field(default="", description="Why, for people, with the next step.")
    last_transition_time: Time | None = Field(
        default=None, description="When it last changed.", json_schema_extra={"nullable": True}
    )
    observed_generation: Int64 | None = Field(default=None, description="Generation of the spec that it judges.")


class Progress(Model):
    """How far one step of the work is."""

    step: str = Field(default="", description="Name of the step.")
    progress: float = Field(default=0, ge=0, le=100, description="Percent done.")
    last_transition_time: Time | None = Field(
        default=None, description="When it was last reported.", json_schema_extra={"nullable": True}
    )


class BROperation(Model):
    """One run of br, as seen in its own log."""

    operation_id: str = Field(default="", alias="operationID", description="br's id of the run.")
    command: str = Field(default="", description="br's sub-command.")
    started_at: Time | None = Field(default=None, description="When br began.", json_schema_extra={"nullable": True})
    observed_at: Time | None = Field(default=None, description="When it was seen.", json_schema_extra={"nullable": True})


class BackoffRetryRecord(Model):
    """One failure and the retry that answers it."""

    retry_num: Int32 | None = Field(default=None, description="Number of the retry, from 1.")
    detect_failed_at: Time | None = Field(
        default=None, description="When the failure was seen.", json_schema_extra={"nullable": True}
    )
    expected_retry_at: Time | None = Field(
        default=None, description="When the retry is due.", json_schema_extra={"nullable": True}
    )
    real_retry_at: Time | None = Field(default=None, description="When it began.", json_schema_extra={"nullable": True})
    retry_reason: str = Field(default="", description="What failed.")
    original_reason: str = Field(default="", description="Why it failed, as the Job or the tool says.")


class Status(Model):
    """What the status of every kind begins with."""

    observed_generation: Int64 | None = Field(default=None, description="Generation of the spec that the status is about.")
    conditions: list[Condition] = Field(
        default_factory=list, description="What is known, one entry a type.", json_schema_extra={"nullable": True}
    )


class RunStatus(Status):
    """What the status of a kind that runs Jobs has in common."""

    recorded: dict[str, str] = Field(
        default_factory=dict,
        description="What the spec said at the start of where this runs: field to value. Decides all that follows.",
    )
    awaited_jobs: list[str] = Field(default_factory=list, description="Jobs that were requested and are not there yet.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of ``kubectl get``; *priority* above 0 shows it with ``-o wide`` alone."""

    name: str
    path: str
    type: Literal["string", "integer", "date"] = "string"
    priority: int = 0


AGE: Final = Column(name="Age", path=".metadata.creationTimestamp", type="date")


class Resource(Model):
    """A whole custom resource."""

    PLURAL: ClassVar[str]
    SHORT: ClassVar[str]
    COLUMNS: ClassVar[tuple[Column, ...]]

    api_version: Literal["pingcap.com/v1alpha1"] = Field(description="pingcap.com/v1alpha1.")
    metadata: dict[str, Any] = Field(description="Kubernetes' metadata.")
