"""``python -m sandbox.standins.metacontroller``: the stand-in as a process, with those flags of the real one that are used."""

import argparse
import logging
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from sandbox.api import Api
from sandbox.standins.metacontroller.manager import Metacontroller

_IGNORED = ("--metrics-address", "--discovery-interval", "--client-go-qps", "--client-go-burst", "--pprof-address")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="sandbox.standins.metacontroller", description="A stand-in for Metacontroller.")
    parser.add_argument(
        "--kubeconfig", type=Path, default=os.environ.get("KUBECONFIG"), required="KUBECONFIG" not in os.environ
    )
    parser.add_argument("--workers", type=int, default=5, help="concurrent hook calls per controller")
    parser.add_argument("--health-probe-bind-address", default="0", help="HOST:PORT of /healthz and /readyz, 0 for none")
    parser.add_argument("--zap-log-level", type=int, default=4, help="5 and above log every sync")
    for flag in _IGNORED:
        parser.add_argument(flag, help="accepted and ignored")
    return parser.parse_args()


def _serve_health(address: str, ready: threading.Event) -> None:
    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if ready.is_set() or self.path == "/healthz" else 503)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Probes are not worth a line."""

    host, _, port = address.rpartition(":")
    server = ThreadingHTTPServer((host or "127.0.0.1", int(port)), Health)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def main() -> int:
    """Run until SIGTERM or SIGINT."""
    options = _arguments()
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if options.zap_log_level >= 5 else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    stand_in = Metacontroller(Api.from_kubeconfig(options.kubeconfig), workers=options.workers)
    if options.health_probe_bind_address != "0":
        _serve_health(options.health_probe_bind_address, stand_in.ready)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    stand_in.start()
    ended.wait()
    stand_in.stop()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
