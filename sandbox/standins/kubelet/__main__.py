"""``python -m sandbox.standins.kubelet``: the node agent as a process."""

import argparse
import logging
import signal
import sys
import threading
from pathlib import Path

from sandbox.api import Api
from sandbox.standins.kubelet.agent import Agent


def main() -> int:
    """Run until SIGTERM or SIGINT; containers end with it."""
    parser = argparse.ArgumentParser(prog="sandbox.standins.kubelet", description="Runs Pods as local processes.")
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="where Pods keep logs and volumes")
    options = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    agent = Agent(Api.from_kubeconfig(options.kubeconfig), options.folder)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    agent.start()
    ended.wait()
    agent.stop()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
