"""Histories: what may happen to a :class:`World`, one step after another, and how every history ends.

A step is the name of an action and a number from which the action makes its choices, so Hypothesis and a seeded generator play
the same histories, and a found one is a list of pairs that can be written into a test.
"""

import json
import random
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Final

from app.domain.times import moment
from cli.simulator.metacontroller import HOOKS, JOBS
from cli.simulator.store import NAMESPACES, ApiError, Object, deleting, key_of, kind_of, owners, uid_of
from crds.contract import names
from tests.support.objects import at
from tests.support.world import users
from tests.support.world.cluster import BACKUPS, CLUSTERS, CONFIGS, NAMESPACE, Dice, World, tidb_cluster
from tests.support.world.invariants import UNKNOWN_FIELD, Violation, demand
from tests.support.world.kubernetes import PODS, Faults, finished
from tests.support.world.managers import owner_of, purpose_of

Step = tuple[str, int]
LARGEST: Final = 2**24
_WAITS: Final = (10, 60, 300, 600, 1200, 3600, 7200, 86_400)
_DAYS: Final = (2, 4, 40)
_SKEWS: Final = (0, 60, -60, 3600, -3600, 86_400 * 2, -86_400 * 2, 86_400 * 366, -86_400 * 366)
_GARBAGE: Final = (
    "no report",
    "{}",
    "null",
    '{"v":1,"seq":1,"phase":"Complete"',
    '{"v":99,"seq":1,"phase":"Complete"}',
    '{"v":1,"seq":-1,"phase":"Running"}',
    '{"v":1,"seq":1,"phase":"Running","result":{"taskState":7,"observedAt":[]}}',
    '{"v":1,"seq":1,"phase":"Running","result":{"checkpointTs":{},"taskState":"running","observedAt":"2026-01-31T02:00:10Z"}}',
    '{"v":1,"seq":1,"phase":"Running","timeStarted":"0001-01-01T00:00:00+14:00"}',
    '{"v":1,"seq":1,"phase":"Running","timeStarted":"2026-01-31T02:00:00","eta":"9999-12-31T23:59:58-14:00"}',
    '{"v":1,"seq":1,"phase":"Failed","timeCompleted":"2026-01-31T02:00:00","error":{"reason":"","retryable":true}}',
    '{"v":1,"seq":1,"phase":"Failed","result":{"left":"many","deferredUntil":"9999-12-31T23:59:58-14:00"}}',
    '{"v":1,"seq":1,"phase":"Running","bytes":1e400}',
    '{"v":1,"seq":1,"phase":"Complete","commitTs":"soon","backupSize":1}',
)
_TIMES: Final = ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:58-14:00", "soon", "", "2026-01-31T02:00:00")

Action = Callable[[World, Dice], None]
ACTIONS: Final[dict[str, tuple[int, Action]]] = {}
"""By name: how often, against the others, and what it does."""


def action(weight: int) -> Callable[[Action], Action]:
    """Register an action under its function's name."""

    def register(function: Action) -> Action:
        ACTIONS[function.__name__.replace("_", " ")] = weight, function
        return function

    return register


def begin(cast: int) -> World:
    """The world of the cast with that number."""
    world = World()
    for kind, name, spec in users.CASTS[cast % len(users.CASTS)]:
        world.put(users.cr(kind, name, spec))
        world.tell("{} {} is applied", kind, name)
    return world


def play(world: World, steps: Sequence[Step]) -> None:
    """Take *steps*. Raises Violation with the story."""
    try:
        for name, number in steps:
            take(world, name, number)
        finish(world)
    except Violation as violation:
        raise Violation(f"{violation}\n\n{world.printed()}\n\nsteps: {list(steps)}") from violation


def take(world: World, name: str, number: int) -> None:
    """One step."""
    world.wait(2)
    ACTIONS[name][1](world, Dice(number))


def random_steps(chance: random.Random, length: int) -> list[Step]:
    """*length* steps by weight."""
    chosen = chance.choices(_NAMES, cum_weights=_CUMULATED, k=length)
    return [(name, chance.randrange(LARGEST)) for name in chosen]


# Passes, and what goes wrong in them


def _cr(world: World, dice: Dice) -> Object | None:
    crs = world.crs()
    return dice.pick(crs) if crs else None


@action(24)
def sync(world: World, dice: Dice) -> None:
    if cr := _cr(world, dice):
        world.sync(cr)
        world.controllers()


@action(6)
def resync(world: World, _dice: Dice) -> None:
    world.resync()


@action(10)
def sync_with_caches_behind(world: World, dice: Dice) -> None:
    if cr := _cr(world, dice):
        world.sync(cr, lag=1 + dice.roll(255))


@action(3)
def lose_the_answer(world: World, dice: Dice) -> None:
    if cr := _cr(world, dice):
        world.call(cr, lag=dice.roll(64))
        world.tell("    the answer is lost")


@action(4)
def die_while_settling(world: World, dice: Dice) -> None:
    if cr := _cr(world, dice):
        world.sync(cr, faults=Faults(dies_after=dice.roll(3)), lag=dice.roll(64))
        world.controllers()


@action(5)
def lose_the_status(world: World, dice: Dice) -> None:
    if cr := _cr(world, dice):
        world.sync(cr, faults=Faults(status_conflict=True), lag=dice.roll(64))
        world.controllers()


@action(3)
def refuse_a_write(world: World, dice: Dice) -> None:
    if cr := _cr(world, dice):
        world.sync(cr, faults=Faults(refused=dice.roll(3)))
        world.controllers()


@action(3)
def hold_an_answer(world: World, dice: Dice) -> None:
    """The webhook is slow: its answer comes when the world has gone on."""
    cr = _cr(world, dice)
    if cr and (current := world.call(cr, lag=dice.roll(64))):
        world.held.append(current)
        world.tell("    the answer is held")


def _everything_is_seen(world: World) -> None:
    """What is there stands in every cache and status: hands are slower than caches."""
    world.quiet()
    world.caches.catch_up_all()


# Managers and Kubernetes


def _pod(world: World, dice: Dice) -> Object | None:
    pods = world.managers.pods()
    return dice.pick(pods) if pods else None


@action(8)
def start_a_pod(world: World, dice: Dice) -> None:
    if pod := _pod(world, dice):
        world.managers.start(pod)
        world.controllers()


@action(5)
def report_progress(world: World, dice: Dice) -> None:
    if pod := _pod(world, dice):
        world.managers.start(pod)
        world.managers.progress(world.store.get(PODS, key_of(pod)), dice.roll(100))
        world.controllers()


@action(14)
def do_the_work(world: World, dice: Dice) -> None:
    if pod := _pod(world, dice):
        world.managers.finish(pod)
        if not dice.roll(4):
            return  # the Job controller is late
        world.controllers()


@action(5)
def fail(world: World, dice: Dice) -> None:
    if pod := _pod(world, dice):
        more: dict[str, Any] = dice.pick(({}, {"result": {"left": 3}}, {"result": {"left": 3, "deferredUntil": at(20_000)}}))
        world.managers.fail(pod, dice.pick(("Away", "Gone")), retryable=bool(dice.roll(3)), **more)
        world.controllers()


@action(4)
def kill_a_pod(world: World, dice: Dice) -> None:
    if pod := _pod(world, dice):
        world.managers.kill(pod, dice.pick(("Failed", "Failed", "Succeeded")))
        world.controllers()


@action(3)
def report_garbage(world: World, dice: Dice) -> None:
    """An annotation that is old, doubled, or nothing at all; on a finished Job by hand, so once its end is seen."""
    _everything_is_seen(world)
    jobs = [job for _, job in sorted(world.store.of(JOBS).items()) if owner_of(job)]
    if jobs:
        job, text = dice.pick(jobs), dice.pick(_GARBAGE)
        world.tell("the report of {} becomes {}", job["metadata"]["name"], text)
        world.managers.say(job, text)


@action(2)
def watch_sees(world: World, dice: Dice) -> None:
    """The cluster's task is touched by others, or cannot be seen."""
    if world.managers.tasks:
        task = dice.pick(sorted(world.managers.tasks))
        world.managers.tasks[task] = dice.pick(("running", "paused", "errorPaused", "unknown", "absent"))
        world.tell("the task {} is {}", task, world.managers.tasks[task])


@action(3)
def kubernetes_turns(world: World, _dice: Dice) -> None:
    world.controllers()


# Time


@action(8)
def wait(world: World, dice: Dice) -> None:
    """As in a quiet cluster: the webhook is asked again before long."""
    seconds = dice.pick(_WAITS)
    world.tell("{} s go by", seconds)
    world.release()
    _pods_end(world)
    world.resync()
    world.caches.catch_up_all()
    world.wait(seconds)
    world.controllers()


@action(2)
def days_go_by(world: World, dice: Dice) -> None:
    """Long enough for the TTL of Jobs; Metacontroller asks about everything meanwhile."""
    days = dice.pick(_DAYS)
    world.tell("{} days go by", days)
    world.release()
    _pods_end(world)
    world.resync()
    world.resync()
    world.caches.catch_up_all()
    world.wait(days * 86_400)
    world.controllers()
    world.resync()


@action(1)
def the_webhook_is_down(world: World, dice: Dice) -> None:
    """Longer than the TTL of Jobs: what ends meanwhile is gone when it is back."""
    days = dice.pick(_DAYS)
    world.tell("the webhook is down for {} days", days)
    world.release()
    for _ in range(dice.roll(3)):
        if pod := _pod(world, dice):
            world.managers.finish(pod)
            world.controllers()
    _pods_end(world)
    world.wait(days * 86_400)
    world.controllers()
    world.caches.catch_up_all()


@action(1)
def clock_of_the_cluster(world: World, dice: Dice) -> None:
    """The time service puts every node right, in either direction."""
    seconds = dice.pick((60, -60, 3600, -3600, 86_400, -86_400))
    _everything_is_seen(world)  # Kubernetes acts on the new time at once
    world.tell("the clock of the cluster jumps by {} s", seconds)
    world.wait(seconds)
    world.invariants.clock_is_set_back()


@action(2)
def clock_of_the_webhook(world: World, dice: Dice) -> None:
    seconds = dice.pick(_SKEWS)
    world.tell("the webhook's clock is {} s ahead", seconds)
    world.skew = timedelta(seconds=seconds)


@action(2)
def another_version_answers(world: World, _dice: Dice) -> None:
    world.version = (world.version + 1) % len(CONFIGS)
    world.tell("version {} of the webhook answers", world.version)


def _pods_end(world: World) -> None:
    """Pods that are being deleted end within their grace period."""
    for pod in world.managers.pods():
        if deleting(pod):
            world.store.end_pod(pod, "Failed")


@action(3)
def terminating_pods_end(world: World, _dice: Dice) -> None:
    _pods_end(world)
    world.controllers()


# Users


@action(8)
def edit(world: World, dice: Dice) -> None:
    """Any field of any spec."""
    if cr := _cr(world, dice):
        known = users.fields(cr["kind"])
        path, schema = known[dice.roll(len(known)) % (len(known) if dice.roll(2) else 24)]
        value = dice.pick(users.values(path[-1], schema))
        world.tell("{} {}: spec.{} = {}", cr["kind"], cr["metadata"]["name"], ".".join(path), value)
        world.store.write(cr, spec=users.edited(cr["spec"], path, value))


@action(4)
def command_the_log(world: World, dice: Dice) -> None:
    logs = [cr for cr in world.crs() if cr["spec"].get("backupMode") == "log"]
    if logs:
        cr = dice.pick(logs)
        change: dict[str, Any] = dice.pick(
            (
                {"logSubcommand": "log-pause"},
                {"logSubcommand": "log-start"},
                {"logSubcommand": "log-stop"},
                {"logStop": True, "logSubcommand": None},
                {"logTruncateUntil": "2026-01-31 02:01:00"},
                {"logTruncateUntil": "2099-01-31 02:01:00"},
            )
        )
        world.tell("{}: {}", cr["metadata"]["name"], change)
        spec = {key: value for key, value in {**cr["spec"], **change}.items() if value is not None}
        world.store.write(cr, spec=spec)


@action(3)
def delete_a_cr(world: World, dice: Dice) -> None:
    if cr := _cr(world, dice):
        if cr["metadata"].get("ownerReferences"):
            # Not within the moments before its creation is seen: what nobody saw leaves no trace to be judged by.
            _everything_is_seen(world)
        propagation = dice.pick(("Background", "Background", "Foreground", "Orphan"))
        world.tell("{} {} is deleted ({})", cr["kind"], cr["metadata"]["name"], propagation)
        world.managers.quietly(world.store.delete, kind_of(cr), key_of(cr), uid=uid_of(cr), propagation=propagation)
        world.controllers()


@action(2)
def delete_a_job(world: World, dice: Dice) -> None:
    """By hand, in the background while its Pods live. Not within the moments before its creation is seen: what nobody saw
    leaves no trace to be judged by."""
    _everything_is_seen(world)
    jobs = [job for _, job in sorted(world.store.of(JOBS).items())]
    if jobs:
        job = dice.pick(jobs)
        world.tell("Job {} is deleted by hand", job["metadata"]["name"])
        world.managers.quietly(world.store.delete, JOBS, key_of(job), uid=uid_of(job))
        world.controllers()


@action(2)
def apply_a_copy(world: World, dice: Dice) -> None:
    if cr := _cr(world, dice):
        name = dice.pick(("copy", f"{cr['metadata']['name']}-r1", "before-upgrade", "log-s"))
        world.tell("a copy of {} {} is applied as {}", cr["kind"], cr["metadata"]["name"], name)
        world.managers.quietly(world.put, users.renamed(cr, name, keeps_uid=bool(dice.roll(2))))


@action(2)
def apply_another(world: World, dice: Dice) -> None:
    """One more CR, perhaps under the name of one that has gone, or whose Jobs another one's would be called."""
    kind, _, spec = dice.pick(users.CASTS)[0]
    name = dice.pick(("x", "y", "x-r1", "s"))
    labels = dice.pick(({}, {}, {names.SCHEDULE_LABEL: "s"}))
    world.tell("{} {} is applied", kind, name)
    world.managers.quietly(world.put, users.cr(kind, name, spec, labels=labels))


@action(2)
def apply_a_foreign_job(world: World, dice: Dice) -> None:
    if cr := _cr(world, dice):
        name = cr["metadata"]["name"]
        called = dice.pick(
            (f"backup-{name}", f"restore-{name}", f"clean-{name}", f"backup-{name}-r1", "of-somebody-else", name)
        )
        labels = dice.pick(({}, {names.BACKUP_LABEL: name}, {names.CONTROLLER_UID_LABEL: uid_of(cr)}))
        world.tell("a foreign Job {} is applied, labels {}", called, labels)
        world.managers.quietly(world.put, users.foreign_job(called, labels))


@action(2)
def annotate(world: World, dice: Dice) -> None:
    if cr := _cr(world, dice):
        key, value = dice.pick(
            (
                ("tidb.pingcap.com/force-delete", "true"),
                (names.SLOT_ANNOTATION, dice.pick(_TIMES)),
                (names.IMPORTED_ANNOTATION, dice.pick(("{", '{"path":"s3://b/x"}', '{"path":"s3://b/x","completed":"soon"}'))),
                ("tidb.pingcap.com/log-backup-state-query-failure-grace-period", dice.pick(("", "soon", "-2s", "2s"))),
                (names.PD_ADDR_ANNOTATION, "pd:2379"),
                (names.REPORT_ANNOTATION, dice.pick(_GARBAGE)),
            )
        )
        world.tell("{} {} is annotated: {}={}", cr["kind"], cr["metadata"]["name"], key, value)
        world.store.annotate(cr, annotations={**(cr["metadata"].get("annotations") or {}), key: value})


@action(1)
def status_of_another_version(world: World, dice: Dice) -> None:
    """A newer webhook wrote a field that this one does not know; an API server with an older CRD drops it again."""
    if cr := _cr(world, dice):
        status = dict(cr.get("status") or {})
        if status.pop(UNKNOWN_FIELD, None) is None:
            status[UNKNOWN_FIELD] = {"a": 2}
        world.tell("{} {}: a field of a newer version comes or goes", cr["kind"], cr["metadata"]["name"])
        world.store.write(cr, status=status)


@action(2)
def touch_the_cluster(world: World, dice: Dice) -> None:
    """The TidbCluster goes, comes, is not ready."""
    live = world.store.find(CLUSTERS, f"{NAMESPACE}/basic")
    what = dice.roll(3)
    world.tell("the TidbCluster {}", ("is gone", "is not ready", "is ready")[what])
    if live:
        world.store.delete(CLUSTERS, f"{NAMESPACE}/basic")
    if what:
        world.managers.quietly(world.put, tidb_cluster("basic", ready=what == 2))


@action(1)
def delete_the_namespace(world: World, dice: Dice) -> None:
    if dice.roll(3):
        return
    namespace = world.store.find(NAMESPACES, NAMESPACE)
    if namespace and not deleting(namespace):
        world.tell("the namespace is deleted")
        world.store.end_namespace(NAMESPACE)
        world.controllers()


_NAMES: Final = list(ACTIONS)
_CUMULATED: Final = [sum(ACTIONS[name][0] for name in _NAMES[: index + 1]) for index in range(len(_NAMES))]


# The end


def finish(world: World) -> None:
    """Faults stop. Left alone the world comes to rest; then everything is deleted, and goes, or says how it can go."""
    world.release()
    world.skew = timedelta(0)
    if world.store.find(CLUSTERS, f"{NAMESPACE}/basic"):
        world.store.delete(CLUSTERS, f"{NAMESPACE}/basic")
    world.managers.quietly(world.put, tidb_cluster("basic"))
    world.tell("all faults stop")
    _work(world)
    world.quiet()
    for cr in world.crs():
        _rests_for_a_reason(world, cr)
    _schedules_go_on(world)
    for cr in world.crs():
        world.managers.quietly(world.store.delete, kind_of(cr), key_of(cr), uid=uid_of(cr))
    world.tell("everything is deleted")
    _go(world)


def _work(world: World) -> None:
    """Every Pod does its work, and every Job ends; what runs for ever may run on."""
    for _ in range(12):
        before = world.store.version
        _pods_end(world)
        for pod in world.managers.pods():
            job = world.managers.job_of(pod)
            if job is None or purpose_of(job) != "log-watch":
                world.managers.finish(pod)
        world.resync()
        if world.store.version == before:
            return


def _rests_for_a_reason(world: World, cr: Object) -> None:
    """Whatever has not ended waits for a Job, for a time that it named, or says what it waits for."""
    status, name = cr.get("status") or {}, f"{cr['kind']} {cr['metadata']['name']}"
    if cr["kind"] == "BackupSchedule" or deleting(cr):
        return
    conditions = status.get("conditions") or ()
    ended = any(item["type"] in {"Complete", "Failed", "Stopped"} and item["status"] == "True" for item in conditions)
    says = any(item["type"] in {"Waiting", "Invalid", "Stalled"} for item in conditions)
    jobs = [job for job in world.store.of(JOBS).values() if owner_of(job) == uid_of(cr) and not finished(job)]
    waits = world.waits.get((kind_of(cr), key_of(cr)))
    demand(ended or says or jobs or waits, "{} rests and does not say why: {}", name, status)


def _schedules_go_on(world: World) -> None:
    """With the clock right again, a schedule whose next run comes makes it, or says why not."""
    for schedule in [cr for cr in world.crs() if cr["kind"] == "BackupSchedule" and not deleting(cr)]:
        before = schedule.get("status") or {}
        due, created = moment(before.get("nextBackupTime")), moment(schedule["metadata"]["creationTimestamp"])
        if due is None or created is None or due <= created or before.get("conditions"):
            continue
        world.now = max(world.now, due)
        world.tell("the next run of {} is due", schedule["metadata"]["name"])
        for _ in range(4):
            world.sync(schedule)
            world.controllers()
        live = world.store.find(kind_of(schedule), key_of(schedule))
        status = (live or {}).get("status") or {}
        done = moment(status.get("lastScheduleTime"))
        went_on = (done is not None and done >= due) or bool(status.get("conditions"))
        demand(went_on, "{} does not go on: {}", schedule["metadata"]["name"], status)


def _go(world: World) -> None:
    for attempt in range(40):
        _work(world)
        left = world.crs()
        if not left:
            break
        world.wait(min(max([world.waits.get((kind_of(cr), key_of(cr)), 0) for cr in left]), 86_400 * 14) + 20)
        world.controllers()
        if attempt % 10 == 9:
            for cr in left:
                _say_the_way_out(world, cr)
    demand(not world.crs(), "{} cannot be deleted", [f"{cr['kind']} {cr['metadata']['name']}" for cr in world.crs()])


def _say_the_way_out(world: World, cr: Object) -> None:
    """A CR that stays says how it can go, and that helps."""
    status = cr.get("status") or {}
    if any(reference["uid"] == uid_of(cr) for other in world.crs() for reference in owners(other)):
        return  # its children go first, and each says for itself what it waits for
    told = json.dumps(status.get("conditions") or [])
    name = f"{cr['kind']} {cr['metadata']['name']}"
    foreign = [job for job in world.store.of(JOBS).values() if owner_of(job) != uid_of(cr)]
    if "JobNotCreated" in told or "JobNameTaken" in told:
        named = [job for job in foreign if job["metadata"]["name"] in told]
        demand(named, "{} waits for a name that no other Job has: {}", name, told)
        for job in named:
            world.tell("{} stays, as its condition says; Job {} is deleted", name, job["metadata"]["name"])
            world.managers.quietly(world.store.delete, JOBS, key_of(job))
        return
    demand("force-delete" in told, "{} stays and names no way out: {}", name, told)
    world.tell("{} stays, as its condition says; it is forced", name)
    annotations = {**(cr["metadata"].get("annotations") or {}), "tidb.pingcap.com/force-delete": "true"}
    world.store.annotate(cr, annotations=annotations)


__all__ = ["ACTIONS", "BACKUPS", "HOOKS", "ApiError", "Step", "begin", "finished", "play", "random_steps", "take"]
