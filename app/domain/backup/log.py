"""Log backups: one long-lived task in the TiDB cluster, driven by short Jobs, one at a time.

The spec says what the task should be doing; which sub-command gets it there is a function of spec and status
(:func:`wanted_command`). Each pass: take in what finished Jobs did, in the order in which they ended; follow the one under way;
with none under way, compare with what the cluster says (:mod:`~app.domain.backup.log_watch`) and start the command that is
wanted. A command's finished Job is kept until its outcome stands in the received status; only then may it go to make room for
the next run of the same command.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from app.domain.backup import log_watch
from app.domain.config import Config
from app.domain.decision import Decision, Drop
from app.domain.job import progress
from app.domain.job.observed import JOB, Job, JobIntent, Purpose, observed_jobs
from app.domain.job.retry import Policy
from app.domain.job.run import Outcome, Run, show
from app.domain.observed import Object, Observed, metadata
from app.domain.status import Phase, StatusBuilder
from app.domain.times import moment
from app.domain.validation import Admission, admit, hold, spec_problem
from crds.contract import names, tso
from crds.contract.paths import location_of

START: Final = "log-start"
STOP: Final = "log-stop"
PAUSE: Final = "log-pause"
RESUME: Final = "log-resume"
TRUNCATE: Final = "log-truncate"
UNKNOWN: Final = "log-unknown"
COMMANDS: Final = (START, PAUSE, RESUME, STOP, TRUNCATE)
_OPPOSITE: Final = {PAUSE: RESUME, RESUME: PAUSE}
_AT_ONCE: Final = 1.0
"""Seconds, the shortest wait that there is."""
_ENDED: Final = frozenset({Phase.COMPLETE, Phase.FAILED, Phase.REPEATABLE})
_REACHED: Final = {START: Phase.RUNNING, STOP: Phase.STOPPED, PAUSE: Phase.PAUSED, RESUME: Phase.RUNNING}


def is_log(spec: Mapping[str, Any]) -> bool:
    """Whether *spec* is of a log backup."""
    return bool(spec.get("backupMode") == "log")


def is_started(status: Mapping[str, Any], jobs: Mapping[str, Job], backup: str) -> bool:
    """Whether the task may exist in the cluster: a start was at least tried."""
    entry = (status.get("logSubCommandStatuses") or {}).get(START) or {}
    return bool(status.get("commitTs") or entry) or names.log_job(backup, START) in jobs


def wanted_command(spec: Mapping[str, Any], status: Mapping[str, Any], target: str = "") -> str:
    """The sub-command that brings the task to what *spec* says, or that it is in already (TiDB Operator 1.6's tables).

    *target* is where the log is to be truncated to, empty for nowhere.

    >>> wanted_command({}, {}), wanted_command({"logStop": True}, {"phase": "Running", "commitTs": "1"})
    ('log-start', 'log-stop')
    >>> wanted_command({"logSubcommand": "log-start"}, {"phase": "Paused", "commitTs": "1"})
    'log-resume'
    >>> wanted_command({}, {"phase": "Running", "commitTs": "1"}, "5")
    'log-truncate'
    """
    asked, phase = spec.get("logSubcommand") or "", status.get("phase") or ""
    if not asked and (spec.get("logStop") or phase == Phase.STOPPED):
        command = STOP
    elif asked in {"", START}:
        command = RESUME if phase == Phase.PAUSED else START
    else:
        command = asked if asked in {STOP, PAUSE} else UNKNOWN
    return TRUNCATE if in_sync(command, status) and _truncates(status, target) else command


def in_sync(command: str, status: Mapping[str, Any]) -> bool:
    """Whether the task already is where *command* would bring it."""
    if command == START:
        return bool(status.get("commitTs"))
    return command in _REACHED and status.get("phase") == _REACHED[command]


def _truncates(status: Mapping[str, Any], target: str) -> bool:
    """Whether truncating to *target* would delete anything that may go: it lies after the start and after the last truncation,
    and the log has come that far."""
    if not target or target == status.get("logSuccessTruncateUntil") or _is_ahead(status, target):
        return False
    return _tso(target) > max(_tso(status.get("commitTs")), _tso(status.get("logSuccessTruncateUntil")))


def _is_ahead(status: Mapping[str, Any], target: str) -> bool:
    """Whether *target* lies after all that the log has: a slip of the pen would delete the whole of it."""
    return bool(reached := _tso(status.get("logCheckpointTs"))) and _tso(target) > reached


def _tso(text: Any) -> int:
    try:
        return tso.parse(str(text or ""))
    except tso.TimestampError:
        return 0


def truncate_target(observed: Observed) -> str:
    """The later of the spec's target and the one that the Backup's schedule publishes in its status."""
    published = [
        (schedule.get("status") or {}).get("logTruncateUntil")
        for schedule in (observed.related.get("BackupSchedule.pingcap.com/v1alpha1") or {}).values()
        if is_log_of(schedule, observed)
    ]
    return str(max([observed.spec.get("logTruncateUntil"), *published], key=_tso) or "")


def is_log_of(schedule: Object, observed: Observed) -> bool:
    """Whether what *schedule* publishes is about this very log: its status names this Backup and where its log starts, and no
    other controller owns it. A label, and even the owner, is copied with the YAML of a Backup; the position of a log is not."""
    meta, status, own = metadata(schedule), schedule.get("status") or {}, metadata(observed.parent)
    owners = [str(owner.get("uid")) for owner in own.get("ownerReferences") or () if owner.get("controller")]
    start = _tso(observed.status.get("commitTs"))
    return bool(
        start
        and meta.get("namespace") == observed.namespace
        and status.get("logBackup") == observed.name
        and moment(status.get("logBackupStartTs")) == tso.to_datetime(start).replace(microsecond=0)
        and all(uid == meta.get("uid") for uid in owners)
    )


def sync(observed: Observed, now: datetime, config: Config) -> Decision[JobIntent]:
    """The answer to a sync of a log Backup."""
    task = _Task(observed, now, config)
    for command in task.commands_to_process():
        outcome = task.follow(command)
        if outcome.due:
            return task.start(outcome.due, command)
        if not outcome.ended:
            return task.answer(wait=outcome.wait)
    return task.apply_observed_state() or task.next()


class _Task:
    """One pass over a log Backup."""

    def __init__(self, observed: Observed, now: datetime, config: Config) -> None:
        self.observed, self.spec = observed, observed.spec
        self.now, self.config = now, config
        self.jobs = observed_jobs(observed)
        self.builder = StatusBuilder(observed.status)
        self.received: Mapping[str, Mapping[str, Any]] = observed.status.get("logSubCommandStatuses") or {}
        self.entries: dict[str, dict[str, Any]] = {command: dict(entry) for command, entry in self.received.items()}
        self.target = truncate_target(observed)
        self.watch = self.jobs.get(names.log_job(observed.name, log_watch.COMMAND))

    def answer(
        self, *, create: Sequence[JobIntent] = (), drop: Sequence[Drop] = (), wait: float | None = None
    ) -> Decision[JobIntent]:
        """The decision of this pass: what is asked for here, and what the watch of the task needs."""
        log_watch.merge_observation(self.builder, log_watch.Observation.of(self.watch), self._settled)
        care = log_watch.reconcile_watch_job(self.watch, self.builder, self.observed, self.now, self.config)
        self.builder.put(logSubCommandStatuses=self.entries or None)
        waits = [time for time in (wait, care.wait) if time is not None]
        return Decision(
            status=self.builder.done(),
            create=[*create, *care.create],
            drop=[*drop, *care.drop],
            resync_after=min(waits, default=None),
        )

    @property
    def _settled(self) -> datetime | None:
        return log_watch.last_command_end(entry for command, entry in self.entries.items() if command != TRUNCATE)

    def apply_observed_state(self) -> Decision[JobIntent] | None:
        """With no command under way, what the cluster says of the task counts for more than the status.

        What follows from it waits for the next pass: the watch will have said something else by then, so a pass that still
        sees the status from before could not come to this again.
        """
        log_watch.merge_observation(self.builder, log_watch.Observation.of(self.watch), self._settled)
        stopping = wanted_command(self.spec, self.builder.done()) == STOP
        found = log_watch.correction(self.builder, self.observed, self._settled, stopping=stopping)
        if found is None:
            return None
        self.builder.enter(found.phase, at=found.at, reason=found.reason, message=found.message)
        if found.phase in {Phase.STOPPED, Phase.FAILED}:
            self.builder.put(timeCompleted=found.at)
        return self.answer(wait=_AT_ONCE)

    def _first(self, command: str) -> str:
        return names.log_job(self.observed.name, command)

    def _jobs_of(self, command: str) -> list[Job]:
        first, retried = self._first(command), len(self.observed.status.get("backoffRetryStatus") or ())
        attempts = (names.retry(first, number) for number in range(len(self.jobs) + retried + 1))
        return [self.jobs[name] for name in attempts if name in self.jobs]

    def _is_recorded(self, job: Job, command: str) -> bool:
        """Whether the received status already has the outcome of *job*."""
        entry = self.received.get(command) or {}
        completed = moment(entry.get("timeCompleted"))
        return bool(job.ended and completed and entry.get("phase") in _ENDED and job.ended <= completed)

    def _fresh(self, command: str) -> list[Job]:
        """The Jobs of *command* whose outcome the received status does not have. An attempt that another one followed is
        settled with that one, also where the clock was set back between them."""
        jobs = self._jobs_of(command)
        settled = [index for index, job in enumerate(jobs) if self._is_recorded(job, command)]
        return jobs[max(settled, default=-1) + 1 :]

    def _under_way(self, command: str) -> bool:
        entry = self.received.get(command) or {}
        return bool(entry) and entry.get("phase") not in _ENDED

    def commands_to_process(self) -> list[str]:
        """Commands whose Jobs say something new or are awaited: those that ended first, in that order."""
        news: list[tuple[bool, datetime | None, str]] = []
        for command in COMMANDS:
            fresh = self._fresh(command)
            if fresh or self._under_way(command):
                ends = [job.ended for job in fresh]
                ended = max((end for end in ends if end), default=None) if fresh and None not in ends else None
                news.append((ended is None, ended, command))
        return [command for _, _, command in sorted(news, key=lambda item: (item[0], str(item[1]), item[2]))]

    def follow(self, command: str) -> Outcome:
        """Take in where the run of *command* stands."""
        entry = self.entries.get(command) if self._under_way(command) else None
        fresh = {job.name: job for job in self._fresh(command)}
        run = Run(
            first=self._first(command),
            policy=Policy.of(self.spec),
            jobs=fresh,
            status={**(entry or {}), "backoffRetryStatus": self.builder.get("backoffRetryStatus") if entry else None},
            seen=bool(entry),
        )
        outcome = run.evaluate(self.now, self.config)
        part = StatusBuilder(entry or {})
        show(part, outcome, command=command)
        self._keep(command, part, outcome)
        self._project(command, outcome)
        if outcome.job:
            progress.show_operations(self.builder, outcome.job)
        return outcome

    def _keep(self, command: str, part: StatusBuilder, outcome: Outcome) -> None:
        part.put(command=command, logTruncatingUntil=self._truncated_to(outcome.job) if command == TRUNCATE else None)
        part.put(progress=None, progresses=None, eta=None, timeTaken=None, commitTs=None, backoffRetryStatus=None)
        if outcome.ended:
            part.put(timeCompleted=outcome.at)
        self.entries[command] = part.done()
        self.builder.put(backoffRetryStatus=None if outcome.phase is Phase.COMPLETE else outcome.records)

    def _project(self, command: str, outcome: Outcome) -> None:
        """What a sub-command's outcome means for the whole Backup."""
        job = outcome.job
        if command == START:
            self._project_start(outcome)
        elif outcome.phase is Phase.WAITING:
            self.builder.mark(Phase.WAITING, at=outcome.at, reason=outcome.reason, message=outcome.message, command=command)
        if outcome.phase is not Phase.COMPLETE or job is None or job.report is None:
            return
        if command == TRUNCATE:
            done = job.report.result.get("logSuccessTruncateUntil") or self._truncated_to(job)
            self.builder.put(logSuccessTruncateUntil=str(done))
            return
        if command == STOP:
            self.builder.put(timeCompleted=outcome.at)
        self.builder.enter(_REACHED[command], at=outcome.at, command=command)
        if (opposite := _OPPOSITE.get(command)) and opposite in self.entries:
            self.entries[opposite]["phase"] = str(Phase.REPEATABLE)

    def _project_start(self, outcome: Outcome) -> None:
        """The Backup as a whole is where its start is, until that has ended well: then it runs, and goes on running."""
        job = outcome.job
        if outcome.phase and outcome.phase is not Phase.COMPLETE:
            words = {"reason": outcome.reason, "message": outcome.message, "command": START}
            self.builder.enter(outcome.phase, at=outcome.at, **words)
        if outcome.phase is Phase.FAILED:
            self.builder.put(timeCompleted=outcome.at)
        if job:
            progress.show_data(self.builder, job)
            self.builder.put(timeStarted=(job.report.time_started if job.report else None) or job.started)
        if job and job.report and outcome.phase is Phase.COMPLETE:
            # br may leave the start to the cluster; the Backup then counts as started from when its Job ended.
            self.builder.put(commitTs=job.report.commit_ts or (str(tso.from_datetime(job.ended)) if job.ended else ""))

    def _truncated_to(self, job: Job | None) -> str:
        """The target in the Job's own arguments: the spec may have moved on."""
        args = job.args if job else ()
        return next((arg.partition("=")[2] for arg in args if arg.startswith("--truncate-until=")), self.target)

    def next(self) -> Decision[JobIntent]:
        """With no command under way: start the one that is wanted, if any."""
        status = self.builder.done()
        command = wanted_command(self.spec, status, self.target)
        out_of_reach = log_watch.is_gone(status) and command != TRUNCATE
        for other, entry in self.entries.items():
            # Asked for again later, it is tried again; a Backup whose start failed is Failed for ever.
            if other not in {command, START} and entry.get("phase") == Phase.FAILED:
                entry["phase"] = str(Phase.REPEATABLE)
        if in_sync(command, status) or out_of_reach or self._has_failed_permanently(command):
            self._remark(status, command)
            return self.answer()
        if command != START and not status.get("commitTs"):
            message = f"{command} waits until the log backup has been started"
            at = moment(metadata(self.observed.parent).get("creationTimestamp"))
            note = self.builder.mark if self.builder.phase == Phase.FAILED else self.builder.enter
            note(Phase.WAITING, at=at, reason="LogBackupNotStarted", message=message)
            return self.answer()
        leftover = self._jobs_of(command)
        if self._fresh(command):
            return self.answer()
        if leftover:
            rule = f"{command} is to run again: its last run stands in the status"
            return self.answer(drop=[Drop(kind=JOB, name=job.name, rule=rule) for job in leftover])
        return self.start(self._first(command), command)

    def _remark(self, status: Mapping[str, Any], command: str) -> None:
        """With nothing to be done: say what the spec asks for in vain."""
        if status.get("phase") == Phase.FAILED:
            return
        if self._has_failed_permanently(command):
            self._remark_failure(command)
        if problem := spec_problem("Backup", self.observed):
            hold(self.builder, self.observed, Admission(invalid=problem), move=False)
        elif _is_ahead(status, self.target):
            message = (
                f"the log is not truncated to {self.target} yet: that lies after its checkpoint {status['logCheckpointTs']}, "
                "so all of it would be deleted"
            )
            hold(self.builder, self.observed, Admission(waiting=("LogTruncateAhead", message)), move=False)
        elif 0 < _tso(self.target) <= _tso(status.get("commitTs")) and not status.get("logSuccessTruncateUntil"):
            # Nothing lies there; who waits for this field to reach the spec's may go on.
            self.builder.put(logSuccessTruncateUntil=self.target)

    def _remark_failure(self, command: str) -> None:
        entry = self.entries[command]
        why: Mapping[str, Any] = next((item for item in entry.get("conditions") or () if item.get("type") == Phase.FAILED), {})
        again = "give another logTruncateUntil" if command == TRUNCATE else "ask for another command, then for this one again"
        message = f"{command} failed and is not repeated: {why.get('message') or why.get('reason')}; mend it and {again}"
        at = moment(entry.get("timeCompleted"))
        self.builder.mark(Phase.STALLED, at=at, reason=str(why.get("reason") or "LogCommandFailed"), message=message)

    def _has_failed_permanently(self, command: str) -> bool:
        """Whether the last run of *command* failed for good; another truncation target is another run."""
        entry = self.entries.get(command) or {}
        same = command != TRUNCATE or entry.get("logTruncatingUntil") == self.target
        return entry.get("phase") == Phase.FAILED and same

    def start(self, name: str, command: str) -> Decision[JobIntent]:
        """The Job *name* of *command*, unless something is in the way."""
        admission = admit("Backup", self.observed, self.config)
        if hold(self.builder, self.observed, admission, move=not self.builder.get("commitTs")):
            return self.answer()
        intent = JobIntent(
            name=name,
            purpose=Purpose.LOG,
            path=location_of(self.spec).url,
            command=command,
            truncate_until=self.target if command == TRUNCATE else "",
            cluster=admission.cluster,
        )
        return self.answer(create=[intent])
