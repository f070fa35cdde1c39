"""The error tree. Every failure that a user may meet is one of these, never a traceback.

::

    ManagerError
    ├── UsageError            the command line or the CR cannot work            exit 2
    ├── PermanentError        repeating the same run cannot help                exit 1
    │   ├── ToolError         br, dumpling or lightning said no
    │   └── StorageError
    │       ├── AccessDeniedError
    │       ├── NotFoundError        bucket, container or object missing
    │       ├── PreconditionError    a conditional write lost
    │       ├── ClaimedError         the path belongs to another Backup
    │       └── SupersededError      a later attempt of the same Backup holds the path
    ├── TransientError        the same run may succeed later                    exit 1
    │   ├── UnreachableError  database, storage or API server not reachable    exit 3
    │   ├── ThrottledError    the storage asks to slow down
    │   └── RunInterruptedError SIGTERM: the Pod was stopped
    ├── CheckError            a check or a verification found something         exit 4
    └── PartialError          done in part; the report lists what is left       exit 5

``reason`` (CamelCase) goes to the condition, ``message`` is one or two lines, ``hint`` is the next step. Secrets never enter.
"""

from typing import ClassVar

from crds.contract.report import Problem


class ManagerError(Exception):
    """Root of the tree."""

    reason: ClassVar[str] = "Failed"
    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "", reason: str = "", retryable: bool | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self._reason = reason or self.reason
        self._retryable = self.retryable if retryable is None else retryable

    def problem(self) -> Problem:
        """The form that goes into a report."""
        return Problem(reason=self._reason, message=self.message, hint=self.hint, retryable=self._retryable)


class UsageError(ManagerError):
    """The command line or the CR cannot work as written."""

    reason = "InvalidSpec"
    exit_code = 2


class PermanentError(ManagerError):
    """Repeating the same run cannot help."""


class ToolError(PermanentError):
    """br, dumpling or tidb-lightning failed."""


class StorageError(PermanentError):
    """The storage refused or misbehaved."""

    reason = "StorageFailed"


class AccessDeniedError(StorageError):
    """The credentials are missing, wrong, expired or lack a permission."""

    reason = "StorageAccessDenied"


class NotFoundError(StorageError):
    """The bucket, container, folder or object does not exist."""

    reason = "StorageNotFound"


class PreconditionError(StorageError):
    """A conditional write lost against another writer."""

    reason = "StorageConflict"


class ClaimedError(StorageError):
    """The path belongs to another Backup."""

    reason = "BackupPathClaimed"


class SupersededError(StorageError):
    """A later attempt, or a clean, holds the path: what this one did does not count."""

    reason = "AttemptSuperseded"


class TransientError(ManagerError):
    """The same run may succeed later."""

    retryable = True


class UnreachableError(TransientError):
    """Database, storage or API server cannot be reached."""

    reason = "Unreachable"
    exit_code = 3


class ThrottledError(TransientError):
    """The storage asks to slow down."""

    reason = "StorageThrottled"


class RunInterruptedError(TransientError):
    """The Pod was stopped (SIGTERM) before the work ended."""

    reason = "Interrupted"


class CheckError(ManagerError):
    """A check did not pass, or a verification found a difference; the report has the list."""

    reason = "CheckFailed"
    exit_code = 4


class PartialError(ManagerError):
    """Done in part; the report lists what is left."""

    reason = "Incomplete"
    retryable = True
    exit_code = 5
