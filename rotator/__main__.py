"""``python -m rotator``: look after the credentials of the webhook until told to stop."""

import argparse
import logging
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from rotator.cluster import Cluster
from rotator.plan import Credentials, Policy, plan

_CONFLICT: Final = 409
_LONGEST: Final = 100_000.0
"""Of any number that is given: days, seconds."""
_CACHE_SECONDS: Final = 5.0
"""Seconds between the Secret and what makes Metacontroller read it: its cache may be a moment behind."""
_log = logging.getLogger("rotator")


class Pace:
    """How long all controllers have trusted what the Secret holds, by a clock that nobody sets. *settle*: seconds after which
    the next step may come. A rotator that was restarted waits anew."""

    def __init__(self, settle: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._settle, self._clock = settle, clock
        self._followed: Credentials | None = None
        self._since = 0.0

    def settled(self, current: Credentials | None) -> bool:
        """Whether *current* has been followed for long enough."""
        return current is not None and current == self._followed and self._clock() - self._since >= self._settle

    def follow(self, current: Credentials, *, changed: bool) -> None:
        """All controllers trust *current*; *changed*: some of them only now."""
        if changed or current != self._followed:
            self._followed, self._since = current, self._clock()


def main() -> int:
    """Run. 2 is returned for wrong arguments, and when there is no cluster to talk to."""
    options = rotator_parser().parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold the token and the key
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    policy = Policy(
        names=options.name or _service_names(options.service, options.namespace),
        renew_after=timedelta(days=options.renew_days),
        life=timedelta(days=options.life_days),
    )
    if 2 * timedelta(seconds=options.settle_seconds) >= policy.life - policy.renew_after:
        _log.error("--life-days must be longer than --renew-days by more than twice --settle-seconds")
        return 2
    try:
        cluster = Cluster(namespace=options.namespace, secret=options.secret, kubeconfig=options.kubeconfig)
    except Exception as error:  # noqa: BLE001 - the library lets YAML's errors and its own slips through
        _log.error("no cluster to talk to: %s; outside of a Pod give --kubeconfig", type(error).__name__)
        return 2
    stopped, pace = threading.Event(), Pace(options.settle_seconds)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    while not stopped.is_set():
        try_pass(cluster, policy, pace, stopped)
        stopped.wait(options.interval_seconds)
    return 0


def try_pass(cluster: Cluster, policy: Policy, pace: Pace, stopped: threading.Event) -> None:
    """One pass: at most one step of a renewal, and the trust of every controller. A failure is logged."""
    try:
        found = cluster.read()
        current = found.credentials
        change = plan(current, policy, datetime.now(UTC), settled=pace.settled(current), wanted=found.wanted)
        if change:
            current = change.credentials
            cluster.write(current, found)
            _log.info("credentials are %s: %s", current.step, change.why)
            stopped.wait(_CACHE_SECONDS)
        assert current is not None  # noqa: S101  (without credentials there is a change)
        changed = False
        for name in cluster.trust(current.trusted):
            changed = True
            _log.info("controller %s trusts the webhook", name)
        if not change:  # what was written is looked at again, as it is read
            pace.follow(current, changed=changed)
    except ApiException as error:
        # The body may quote what was sent; status and reason do not.
        if error.status == _CONFLICT:
            _log.info("somebody else changed an object meanwhile; trying again")
        else:
            _log.error("the API server refused: %s %s", error.status, error.reason)
    except (HTTPError, OSError) as error:
        _log.error("the API server is out of reach: %s", type(error).__name__)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value <= _LONGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and {_LONGEST:g}")
    return value


def _service_names(service: str, namespace: str) -> list[str]:
    """DNS names under which Pods of a cluster reach *service*."""
    return [f"{service}.{namespace}.svc", f"{service}.{namespace}", f"{service}.{namespace}.svc.cluster.local"]


def rotator_parser() -> argparse.ArgumentParser:
    """The options, with their defaults."""
    parser = argparse.ArgumentParser(
        prog="python -m rotator",
        description="Make and renew certificate and token of the webhook: write the Secret that the webhook mounts, and put "
        "the certificate into the controllers that call it. Each pass makes one step at most, and the next one waits until "
        "both sides had time for it; so it may be killed at any moment.",
    )
    parser.add_argument("--namespace", default="tidb-backup-system", help="namespace of webhook and Secret [%(default)s]")
    parser.add_argument("--secret", default="tidb-backup-webhook", help="name of the Secret [%(default)s]")
    parser.add_argument("--service", default="tidb-backup-webhook", help="Service of the webhook [%(default)s]")
    parser.add_argument("--name", action="append", help="name or address for the certificate, instead of the Service's")
    parser.add_argument("--renew-days", type=_positive, default=30, help="age at which a renewal begins [%(default)s]")
    parser.add_argument("--life-days", type=_positive, default=90, help="life of a certificate [%(default)s]")
    parser.add_argument("--settle-seconds", type=_positive, default=600, help="least time between two steps [%(default)s]")
    parser.add_argument("--interval-seconds", type=_positive, default=30, help="time between two passes [%(default)s]")
    parser.add_argument("--kubeconfig", default="", help="talk to the cluster of this file instead of the Pod's own")
    return parser


if __name__ == "__main__":
    sys.exit(main())
