"""Why something is where it is: conditions, Job, Pod, events and the tool's own words in one paragraph, with the next step."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from app.domain.jobs import Job
from app.domain.observed import Object, condition, metadata, name_of
from app.domain.times import moment
from backup_manager.masking import Masker
from backup_manager.tools.failures import error_text, failure
from backup_manager.tools.process import Ended
from cli.documents import key_of
from cli.summary import FAILED, Summary, summarise
from cli.words import age, size, when
from crds import names

_EVENTS: Final = 3
_UNKNOWN: Final = "Unknown"
_QUIET: Final = 60
"""Seconds after which a CR without any status is not merely new."""
_NEXT: Final[Mapping[str, str]] = {
    "ClusterNotFound": "Create the TidbCluster, or correct spec.br.cluster and spec.br.clusterNamespace; it goes on by itself.",
    "ClusterNotReady": "Bring the TidbCluster to Ready (kubectl describe tc); it goes on by itself.",
    "InvalidSpec": "Correct the spec (kubectl edit, or apply it again); it is judged anew at once.",
    "PreviousRunning": "Let the run before end, or see why it does not: tidb-backup why on that Backup.",
    "GroupRunning": "Let the run of the other schedule end, or see why it does not.",
    "NotCreated": "See the schedule's events and the webhook's log: something refuses the Backup.",
    "DeadlineMissed": "Raise startingDeadlineSeconds, or find out what kept the webhook from answering.",
    "ClockBehind": "Correct the clock of the webhook's node; nothing is deleted until then.",
    "Unreadable": "Correct or delete the Backup that is named; nothing is deleted until then.",
    "ReportMissing": "See its Job's log; a success without proof does not count.",
    "JobVanished": "Somebody deleted the Job while it ran; delete and apply the CR again to repeat it.",
    "NamespaceTerminating": "The data is left where it was; delete it there by hand if it is not wanted.",
    "LogTruncateAhead": "Correct spec.logTruncateUntil if it is a slip; else it is done once the log has come that far.",
    "ObjectsLocked": "Nothing to do: what is locked is tried again when its lock ends.",
}
_POD: Final[Mapping[str, str]] = {
    "ImagePullBackOff": "Correct the image, or the pull secret: spec.toolImage, spec.imagePullSecrets.",
    "ErrImagePull": "Correct the image, or the pull secret: spec.toolImage, spec.imagePullSecrets.",
    "InvalidImageName": "Correct the image: spec.toolImage.",
    "CreateContainerConfigError": "A Secret or ConfigMap that the Pod names is missing, or a key in it; create it.",
    "CrashLoopBackOff": "The container ends at once; its log says why.",
    "Unschedulable": "No node takes the Pod: see its resources, affinity and tolerations in the spec.",
    "OOMKilled": "Raise resources.limits.memory in the spec, or lower the tool's concurrency.",
    "Evicted": "The node was short of something; set resources.requests in the spec.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was found: the CR, its Jobs, their Pods, events about any of them, the log's last lines."""

    cr: Object
    jobs: Sequence[Object] = ()
    pods: Sequence[Object] = ()
    events: Sequence[Object] = ()
    log: str = ""
    children: Sequence[Object] = ()


@dataclass(slots=True, kw_only=True)
class Explanation:
    """*text* says what is, *step* what to do."""

    summary: Summary
    sentences: list[str] = field(default_factory=list)
    step: str = ""
    log: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The paragraph."""
        return " ".join(self.sentences)

    def suggest(self, step: str) -> None:
        """The first suggestion, from the nearest witness, counts."""
        self.step = self.step or step


def explain(evidence: Evidence, now: datetime) -> Explanation:
    """Everything in one paragraph; the most telling source first decides the next step."""
    cr, mask = evidence.cr, Masker()
    summary = summarise(cr, now)
    found = Explanation(summary=summary)
    found.sentences.append(_opening(cr, summary, now))
    if summary.kind == "BackupSchedule":
        _of_schedule(found, evidence, now)
    else:
        _of_run(found, evidence, now)
    found.sentences += _told_by_events(evidence)
    found.sentences = [mask(sentence) for sentence in found.sentences]
    found.log = [mask(line) for line in evidence.log.splitlines()]
    found.suggest(_default_step(cr, summary))
    return found


def _opening(cr: Object, summary: Summary, now: datetime) -> str:
    if metadata(cr).get("deletionTimestamp"):
        return f"{summary.label} is being deleted since {when(_time(metadata(cr).get('deletionTimestamp'), now))}."
    since = _since(cr, summary.phase)
    state = "has no status yet" if summary.phase == "New" else f"is {summary.phase}"
    text = f"{summary.label} {state}"
    if since:
        text += f" since {when(since)} ({age(now - since)})"
    if summary.percent is not None and not summary.ended:
        text += f", {summary.percent:.0f}% done"
    return f"{text}."


def _time(text: object, fallback: datetime) -> datetime:
    return moment(text) or fallback


def _since(cr: Object, phase: str) -> datetime | None:
    found = condition(cr, phase)
    return moment(found.get("lastTransitionTime")) if found else None


def _sentence(text: str) -> str:
    text = text.strip()
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}"


def _of_run(found: Explanation, evidence: Evidence, now: datetime) -> None:
    cr, summary = evidence.cr, found.summary
    status = cr.get("status") or {}
    said = _condition_words(cr, summary.phase)
    jobs = sorted((Job(obj=job) for job in evidence.jobs), key=lambda job: (str(job.created), job.name))
    if summary.phase == "Complete":
        found.sentences.append(_sentence(_success(cr, summary)))
        found.suggest("Nothing to do." if said != "Imported" else "Nothing to do; tidb-backup verify compares its data.")
        return
    if summary.phase == "New":
        _never_seen(found, cr, now)
    for kind in dict.fromkeys((summary.phase, "Invalid", "Waiting", "Stalled", "CleanFailed")):
        item = condition(cr, kind) or {}
        # A condition without a reason says only which Job it is.
        if item.get("reason"):
            found.sentences.append(_sentence(f"{item['reason']}: {item.get('message') or 'no more is said'}"))
    if task := status.get("logTask"):
        found.sentences.append(_of_log_task(task, now))
    if jobs:
        _of_job(found, jobs[-1])
    _of_pods(found, evidence.pods)
    _of_log(found, evidence.log)
    reasons = [str(item.get("reason")) for item in status.get("conditions") or () if item.get("status") == "True"]
    for reason in reversed(reasons):
        found.suggest(_NEXT.get(reason, ""))
    if retries := status.get("backoffRetryStatus"):
        last = retries[-1]
        found.sentences.append(_sentence(f"{len(retries)} failed attempt(s) so far, the next at {last.get('expectedRetryAt')}"))


def _of_log_task(task: Mapping[str, Any], now: datetime) -> str:
    """What the cluster says of a log backup's task."""
    why = "; ".join(str(task[key]) for key in ("pauseReason", "lastError") if task.get(key))
    lag, seen = task.get("lagSeconds"), moment(task.get("observedAt"))
    parts = [f"its task in the cluster is {task.get('state')}" + (f" ({why})" if why else "")]
    parts += [f"{age(timedelta(seconds=lag))} behind"] if isinstance(lag, int) else []
    parts += [f"as of {when(seen)} ({age(now - seen)} ago)"] if seen else []
    return _sentence(", ".join(parts))


def _condition_words(cr: Object, phase: str) -> str:
    return str((condition(cr, phase) or {}).get("reason") or "")


def _success(cr: Object, summary: Summary) -> str:
    status = cr.get("status") or {}
    facts = []
    if summary.size is not None:
        facts.append(f"{status.get('backupSizeReadable') or size(summary.size)} of data")
    if summary.took is not None:
        facts.append(f"took {age(summary.took)}")
    if path := status.get("backupPath"):
        facts.append(f"at {path}")
    return ", ".join(facts) if facts else "it ended well"


def _never_seen(found: Explanation, cr: Object, now: datetime) -> None:
    created = moment(metadata(cr).get("creationTimestamp"))
    if created and (now - created).total_seconds() > _QUIET:
        found.sentences.append("No hook has answered for it, although it is there for a while.")
        found.suggest("See that the webhook runs (kubectl get pods -n tidb-backup-system), and what Metacontroller's log says.")


def _of_job(found: Explanation, job: Job) -> None:
    state = "complete" if job.complete else "failed" if job.failed else "running" if not job.unready else "waiting for its Pod"
    found.sentences.append(_sentence(f"Job {job.name} is {state}"))
    if job.failed:
        reason, message = job.failed_because
        found.sentences.append(_sentence(f"Kubernetes says {reason}: {message}" if message else f"Kubernetes says {reason}"))
    error = job.report.error if job.report else None
    if error:
        told = _sentence(f"the manager reported {error.reason}: {error.message}")
        # The status usually repeats it.
        if error.message not in found.text:
            found.sentences.append(told)
        found.suggest(error.hint)


def _of_pods(found: Explanation, pods: Sequence[Object]) -> None:
    for pod in sorted(pods, key=lambda item: str(metadata(item).get("creationTimestamp")))[-1:]:
        for reason, text in _pod_troubles(pod):
            found.sentences.append(_sentence(f"Pod {name_of(pod)}: {text}"))
            found.suggest(_POD.get(reason, ""))


def _pod_troubles(pod: Object) -> Iterator[tuple[str, str]]:
    status = pod.get("status") or {}
    for item in status.get("conditions") or ():
        if item.get("reason") == "Unschedulable":
            yield "Unschedulable", f"Unschedulable: {item.get('message') or ''}"
    if status.get("reason") and status.get("phase") == "Failed":
        yield str(status["reason"]), f"{status['reason']}: {status.get('message') or ''}"
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        state: Mapping[str, Any] = container.get("state") or {}
        waiting, ended = state.get("waiting") or {}, state.get("terminated") or {}
        name = container.get("name")
        if waiting.get("reason") and waiting["reason"] not in {"PodInitializing", "ContainerCreating"}:
            yield str(waiting["reason"]), f"container {name} waits, {waiting['reason']}: {waiting.get('message') or ''}"
        if ended and ended.get("exitCode"):
            yield (
                str(ended.get("reason")),
                f"container {name} ended with exit status {ended['exitCode']} ({ended.get('reason')})",
            )


def _of_log(found: Explanation, log: str) -> None:
    """What the last error in the log means."""
    lines = tuple(log.splitlines())
    ended = Ended(code=1, stopped=False, out=lines, err=())
    text = error_text(ended) if lines else ""
    if not text:
        return
    if text[:80] not in found.text:
        found.sentences.append(_sentence(f"its log ends with: {' '.join(text.split())[:400]}"))
    meaning = failure("the tool", ended, reason=_UNKNOWN, mask=Masker()).problem()
    if meaning.reason != _UNKNOWN:
        found.suggest(meaning.hint)


def _of_schedule(found: Explanation, evidence: Evidence, now: datetime) -> None:
    cr = evidence.cr
    for kind in ("Invalid", "ScheduleStalled", "RetentionHeld", "Paused"):
        if item := condition(cr, kind):
            found.sentences.append(_sentence(f"{item.get('reason') or kind}: {item.get('message') or ''}"))
            found.suggest(_NEXT.get(str(item.get("reason")), "") if kind != "Paused" else "Unset spec.pause to go on.")
    if not found.step and found.summary.message:
        found.sentences.append(_sentence(found.summary.message))
    newest = _newest(evidence.children)
    if newest is not None:
        state = summarise(newest, now)
        found.sentences.append(_sentence(f"its newest Backup {name_of(newest)} is {state.phase}"))
        if state.phase in FAILED:
            found.suggest(f"See why it failed: tidb-backup why {name_of(newest)} -n {key_of(newest)[1]}")


def _newest(children: Iterable[Object]) -> Object | None:
    backups = [child for child in children if child.get("kind") == "Backup"]
    return max(backups, key=lambda item: (str(metadata(item).get("creationTimestamp")), name_of(item)), default=None)


def _told_by_events(evidence: Evidence) -> list[str]:
    """The last warnings, each said once."""
    warnings = [event for event in evidence.events if event.get("type") == "Warning"]
    warnings.sort(key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
    told = dict.fromkeys(f"{event.get('reason')}: {event.get('message')}" for event in warnings)
    return [_sentence(f"event {text}") for text in list(told)[-_EVENTS:]]


def _default_step(cr: Object, summary: Summary) -> str:
    if summary.phase == "Invalid":
        return _NEXT["InvalidSpec"]
    if summary.phase in FAILED and names.SCHEDULE_LABEL in (metadata(cr).get("labels") or {}):
        return "Mend the cause; the schedule goes on with its next run, whatever became of this one."
    if summary.phase in FAILED:
        return f"Mend the cause, then delete and apply the {summary.kind} again; a failed one is never repeated by itself."
    if summary.phase in {"Running", "Scheduled", "Prepare", "New", "Active"}:
        return "Nothing to do: it goes on by itself."
    if summary.phase == "RetryFailed":
        return "Nothing to do yet: it is tried again. Mend the cause before that, if it is one that stays."
    return f"See the object itself: kubectl describe {summary.kind.lower()} {summary.name} -n {summary.namespace}"
