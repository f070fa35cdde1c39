"""``python -m rotator``: look after the credentials of the webhook until told to stop."""

import argparse
import logging
import signal
import sys
import threading
from datetime import UTC, datetime, timedelta
from typing import Final

from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from urllib3.exceptions import HTTPError

from rotator.cluster import Cluster
from rotator.plan import Policy, plan

_CONFLICT: Final = 409
_CACHE_SECONDS: Final = 5.0
"""Seconds between the Secret and what makes Metacontroller read it: its cache may be a moment behind."""
_log = logging.getLogger("rotator")


def main() -> int:
    """Run. 2 is returned when there is no cluster to talk to, 1 when a single pass failed."""
    options = rotator_parser().parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    policy = Policy(
        names=options.name or _service_names(options.service, options.namespace),
        renew_after=timedelta(days=options.renew_days),
        life=timedelta(days=options.life_days),
        settle=timedelta(seconds=options.settle_seconds),
    )
    if not policy.settle * 2 < policy.life - policy.renew_after:
        _log.error("--life-days must be longer than --renew-days by more than twice --settle-seconds")
        return 2
    try:
        cluster = Cluster(namespace=options.namespace, secret=options.secret, kubeconfig=options.kubeconfig)
    except ConfigException as error:
        _log.error("no cluster to talk to: %s; outside a Pod give --kubeconfig", error)
        return 2
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    while True:
        succeeded = _try_pass(cluster, policy, stopped)
        if options.once:
            return 0 if succeeded else 1
        if stopped.wait(options.interval_seconds):
            return 0


def _try_pass(cluster: Cluster, policy: Policy, stopped: threading.Event) -> bool:
    """One pass: at most one step of a renewal, and the trust of every controller."""
    try:
        found = cluster.read()
        change = plan(found.credentials, policy, datetime.now(UTC), wanted=found.wanted)
        current = change.credentials if change else found.credentials
        if change:
            cluster.write(change.credentials, found)
            _log.info("credentials are %s: %s", change.credentials.step, change.why)
            stopped.wait(_CACHE_SECONDS)
        assert current is not None  # noqa: S101  (without credentials there is a change)
        for name in cluster.trust(current.trusted):
            _log.info("controller %s trusts the webhook", name)
    except ApiException as error:
        # The body may quote what was sent; status and reason do not.
        if error.status == _CONFLICT:
            _log.info("somebody else changed an object meanwhile; trying again")
        else:
            _log.error("the API server refused: %s %s", error.status, error.reason)
        return False
    except (HTTPError, OSError) as error:
        _log.error("the API server is out of reach: %s", type(error).__name__)
        return False
    return True


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
    parser.add_argument("--renew-days", type=float, default=30, help="age at which a renewal begins [%(default)s]")
    parser.add_argument("--life-days", type=float, default=90, help="life of a certificate [%(default)s]")
    parser.add_argument("--settle-seconds", type=float, default=600, help="least time between two steps [%(default)s]")
    parser.add_argument("--interval-seconds", type=float, default=30, help="time between two passes [%(default)s]")
    parser.add_argument("--kubeconfig", default="", help="talk to the cluster of this file instead of the Pod's own")
    parser.add_argument("--once", action="store_true", help="end after one pass; exit code 1 when it failed")
    return parser


if __name__ == "__main__":
    sys.exit(main())
