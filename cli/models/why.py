"""Why something is where it is: conditions, Job, Pod, events and the tool's own words in one paragraph, with the next step."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from app.domain.job.observed import Job
from app.domain.observed import Object, condition, metadata, name_of
from app.domain.times import moment
from backup_manager.masking import Masker
from backup_manager.tools.error_table import error_text, failure
from backup_manager.tools.process import ProcessResult
from cli.documents import key_of
from cli.formats import age, size, when
from cli.models.next_step import after_the_last_clean, cleans, default_step, next_attempt
from cli.models.status import FAILED, Summary, summarise
from crds.contract import names

_EVENTS: Final = 3
_UNKNOWN: Final = "Unknown"
_QUIET: Final = 60
"""Seconds after which a CR without any status is not merely new."""
_NEXT: Final[Mapping[str, str]] = {
    "ClusterNotFound": "Create the TidbCluster, or correct spec.br.cluster and spec.br.clusterNamespace; it then continues.",
    "ClusterNotReady": "Bring the TidbCluster to Ready (kubectl describe tc); it then continues automatically.",
    "InvalidSpec": "Correct the spec (kubectl edit, or apply it again); it is validated again at once.",
    "IdentityChanged": "Set the field back, or create a new CR for the other value; until then the edit has no effect.",
    "LogBackupErrorPaused": "Fix the cause before GC removes what the log still needs, then set logSubcommand to log-pause and "
    "back to log-start: the task is not resumed by itself.",
    "JobNotCreated": "Look whose the Job is (kubectl get job --show-labels), and at the events of this CR.",
    "JobNameTaken": "Delete that Job when it has ended, or create this CR under another name.",
    "NoPodCreated": "The events of its Job have the cause: kubectl describe job.",
    "NoPodReady": "The events of its Pod have the cause: kubectl describe pod.",
    "PreviousRunning": "Let the run before end, or see why it does not: tidb-backup why on that Backup.",
    "GroupRunning": "Let the run of the other schedule end, or see why it does not.",
    "NotCreated": "See the schedule's events and the webhook's log: something refuses the Backup.",
    "DeadlineMissed": "Raise startingDeadlineSeconds, or find out what kept the webhook from answering.",
    "ClockBehind": "Correct the clock of the webhook's node; nothing is deleted until then.",
    "ClockAhead": "Correct the clock of the webhook's node, or the API server's; nothing is made or deleted until then.",
    "ClockUnconfirmed": "Nothing to do if it goes within a minute; else apply the CRDs of this version.",
    "Unreadable": "Correct the Backup that is named; nothing is deleted until then.",
    "NamespaceTerminating": "The data is left where it was; delete it there by hand if it is not wanted.",
    "LogTruncateAhead": "Correct spec.logTruncateUntil if it is a slip; else it is done once the log has come that far.",
    "TargetInUse": "Nothing to do: it starts when the other restore into the same target has ended.",
    "RunEnding": "Nothing to do: it goes when no Pod of its Job runs any more.",
    "SourceNotComplete": "Restore it once its Backup is Complete, or restore another backup.",
    "SourceBeingCleaned": "Restore another backup: this one's data is deleted, or about to be.",
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
    """What was found: the CR, its Jobs, their Pods, events about any of them, the log's last lines. *namesakes* are Jobs of
    others that have the name of one that the CR waits for; *accounts* the namespace's ServiceAccounts, None where not known."""

    cr: Object
    jobs: Sequence[Object] = ()
    pods: Sequence[Object] = ()
    events: Sequence[Object] = ()
    log: str = ""
    children: Sequence[Object] = ()
    namesakes: Sequence[Object] = ()
    accounts: frozenset[str] | None = None


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
    found.suggest(default_step(cr, summary))
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
    deleting = bool(metadata(cr).get("deletionTimestamp"))
    troubled = any(condition(cr, kind) for kind in ("Invalid", "Stalled"))
    if summary.phase == "Complete" and not deleting and not troubled:
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
    _of_namesakes(found, evidence)
    if jobs:
        _of_job(found, jobs[-1])
        _of_missing_pods(found, jobs[-1], evidence)
    _of_pods(found, evidence.pods)
    if cleans(cr):
        # What the log or an older condition advises is about the run, and that is over.
        _of_clean(found, cr)
    else:
        _of_log(found, evidence.log)
        _of_attempts(found, cr)
    shown = ("Invalid", "Stalled", "Waiting", summary.phase)
    for reason in (str((condition(cr, kind) or {}).get("reason")) for kind in shown):
        found.suggest(_NEXT.get(reason, ""))


def _of_attempts(found: Explanation, cr: Object) -> None:
    """How often it failed, and whether another attempt follows."""
    records = (cr.get("status") or {}).get("backoffRetryStatus") or ()
    if not records:
        return
    attempts = f"{len(records)} failed attempt{'s' if len(records) > 1 else ''}"
    following = next_attempt(cr)
    if following:
        found.sentences.append(_sentence(f"{attempts} so far, the next is due at {when(following)}"))
    elif found.summary.phase in FAILED and found.summary.phase != "Invalid":
        found.sentences.append(_sentence(f"{attempts}; no other follows"))
    else:
        found.sentences.append(_sentence(f"{attempts} before"))


def _of_clean(found: Explanation, cr: Object) -> None:
    """How often the clean was tried, whether it is tried again, and how to do without."""
    status = cr.get("status") or {}
    attempt = (status.get("cleanStatus") or {}).get("attempt")
    tried = f"clean attempt {attempt}" if attempt else "the deletion"
    if following := next_attempt(cr):
        found.sentences.append(_sentence(f"{tried} failed, the next is due at {when(following)}"))
        found.suggest("Nothing to do yet: it is tried again then. Fix the cause before, if it is one that stays.")
    elif status.get("phase") == "CleanFailed":
        found.sentences.append(_sentence(f"{tried} was the last, no other follows"))
        found.suggest(after_the_last_clean(cr))


def _of_namesakes(found: Explanation, evidence: Evidence) -> None:
    """Whose the Job is that has the name of an awaited one."""
    for other in evidence.namesakes:
        owner = Job(obj=other).owner or "no CR of this project"
        found.sentences.append(_sentence(f"Job {name_of(other)}, which it waits for, exists and belongs to {owner}"))
        state = "It has ended: delete that Job" if Job(obj=other).finished else "Wait until that Job has ended and delete it"
        found.suggest(f"{state}, or create this {found.summary.kind} under another name.")


def _of_missing_pods(found: Explanation, job: Job, evidence: Evidence) -> None:
    """Why *job* has no Pod at all: its own events say so, and whether its account exists."""
    if job.finished or job.has_pods or evidence.pods:
        return
    namespace = found.summary.namespace
    events = [event for event in evidence.events if event.get("reason") == "FailedCreate" and _about(event, job)]
    said = str(max(events, key=_event_time).get("message") or "") if events else ""
    missing = "serviceaccount" in said.lower() and "not found" in said
    if evidence.accounts is not None and job.account:
        missing = job.account not in evidence.accounts
    if missing:
        found.sentences.append(f"No Pod of Job {job.name} can be created: ServiceAccount {job.account} is missing.")
        found.suggest(
            f"kubectl label namespace {namespace} {names.NAMESPACE_LABEL}=enabled brings the account with its rights; the Job "
            "then gets its Pod automatically, within some minutes."
            if job.account in {"", names.SERVICE_ACCOUNT}
            else f"Create ServiceAccount {job.account} with the manager's rights, or correct spec.serviceAccount in a new CR."
        )
    elif "exceeded quota" in said:
        found.sentences.append(f"No Pod of Job {job.name} can be created: a quota of the namespace is used up.")
        found.suggest(f"Raise the quota or free some of it: kubectl describe quota -n {namespace}. The Job then gets its Pod.")
    elif said:
        found.sentences.append(f"No Pod of Job {job.name} can be created.")
        found.suggest(f"Remove what refuses the Pod; the Job then gets it. See: kubectl describe job {job.name} -n {namespace}")
    elif condition(evidence.cr, "Stalled"):
        found.suggest(f"See why no Pod is created: kubectl describe job {job.name} -n {namespace}")


def _about(event: Object, job: Job) -> bool:
    about = event.get("involvedObject") or {}
    return (about.get("kind"), about.get("name")) == ("Job", job.name)


def _event_time(event: Object) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or "")


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
    text = ", ".join(facts) if facts else "it ended well"
    if left_out := status.get("leftOut"):
        what = "The restore did not bring" if summary.kind == "Restore" else "The export does not hold"
        text += f". {what}: {'; '.join(map(str, left_out))} (docs/export-contents.md)"
    return text


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
    ended = ProcessResult(code=1, stopped=False, out=lines, err=())
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
    warnings.sort(key=_event_time)
    told = dict.fromkeys(f"{event.get('reason')}: {event.get('message')}" for event in warnings)
    return [_sentence(f"event {text}") for text in list(told)[-_EVENTS:]]
