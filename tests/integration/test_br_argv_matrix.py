"""Every CR field to its flag, against the real br: a matrix of CRs, none of which br may refuse for its command line."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from crds.contract import names
from sandbox.certificates import write_certificates
from tests.support.br_matrix import SECRETS, STORAGE_ONLY, STORAGES, TOKEN, VERBS, Case, Proof, cases, prove

pytestmark = pytest.mark.integration

REFUSED = ("unknown flag", "unknown shorthand flag", "invalid argument", "flag needs an argument", "unknown command", "Usage:")
_WORKERS = 4


@pytest.fixture(scope="module")
def proofs(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Case, Proof]]:
    """The whole matrix, run once."""
    patch = pytest.MonkeyPatch()
    patch.setattr(names, "CLUSTER_TLS_DIR", str(tls_files(tmp_path_factory.mktemp("tls"))))
    base = tmp_path_factory.mktemp("matrix")

    def one(numbered: tuple[int, Case]) -> tuple[Case, Proof]:
        folder = base / str(numbered[0])
        folder.mkdir()
        return numbered[1], prove(numbered[1], folder)

    try:
        with ThreadPoolExecutor(_WORKERS) as pool:
            return list(pool.map(one, enumerate(cases())))
    finally:
        patch.undo()


def tls_files(folder: Path) -> Path:
    """ca.crt, tls.crt and tls.key, as a Secret of the cluster has them."""
    write_certificates(folder)
    for wanted, made in {"tls.crt": "apiserver.crt", "tls.key": "apiserver.key"}.items():
        (folder / made).rename(folder / wanted)
    return folder


def test_the_matrix_is_whole(proofs: list[tuple[Case, Proof]]) -> None:
    assert len(proofs) >= 300
    verbs = Counter(case.verb for case, _ in proofs)
    assert set(verbs) == set(VERBS)
    for verb in VERBS:
        storages = {case.name.partition(", ")[2] for case, _ in proofs if case.verb == verb}
        assert storages == set(STORAGES) or verb in STORAGE_ONLY


def test_br_understands_every_command_line(proofs: list[tuple[Case, Proof]]) -> None:
    refused = {case.name: proof.output[-400:] for case, proof in proofs if any(text in proof.output for text in REFUSED)}
    assert not refused


def test_every_run_gets_as_far_as_pd(proofs: list[tuple[Case, Proof]]) -> None:
    silent = {
        case.name: next((line for line in proof.output.splitlines() if "Error" in line), proof.output[-300:])[:400]
        for case, proof in proofs
        if not proof.contacted and not (case.verb in STORAGE_ONLY and "local" in case.name)
    }
    assert not silent
    for case, proof in proofs:
        if case.verb in STORAGE_ONLY and "local" in case.name:  # an empty folder has nothing to truncate, and no metadata
            said = "backupmeta: no such file or directory"
            assert proof.code == 0 if case.verb == "log truncate" else said in proof.output, proof.output[-600:]


def test_br_takes_each_flag_for_what_was_meant(proofs: list[tuple[Case, Proof]]) -> None:
    """br logs the flags that it was given; they are those that we gave, the user's options winning."""
    told = [(case, proof) for case, proof in proofs if proof.arguments]  # a higher log level hides them
    assert len(told) >= 100
    assert {case.verb for case, _ in told} == set(VERBS)
    for case, proof in told:
        given: dict[str, str] = {}
        rest = list(proof.argv[2:])
        while rest:
            flag, equals, value = rest.pop(0).removeprefix("--").partition("=")
            given[flag] = value if equals or not rest or rest[0].startswith("--") else rest.pop(0)
        seen = {name for name in proof.arguments if not name.startswith("__")}
        assert seen == set(given), f"{case.name}: {proof.argv}\n{proof.arguments}"
        for flag in ("ratelimit", "log-level", "checksum", "task-name", "until", "restored-ts", "db", "s3.region"):
            if flag in given:
                assert proof.arguments[flag] == given[flag], case.name


def test_no_secret_is_in_a_command_line(proofs: list[tuple[Case, Proof]]) -> None:
    hidden = [SECRETS["access_key"], SECRETS["secret_key"], "private-key-of", SECRETS["AZURE_STORAGE_KEY"], "client-secret-of"]
    for case, proof in proofs:
        line = json.dumps(proof.argv)
        assert not [secret for secret in hidden if secret in line], case.name
        # br takes an Azure token in the URL and nowhere else.
        assert "sas-token" not in line or "token" in case.name
        assert TOKEN not in line
