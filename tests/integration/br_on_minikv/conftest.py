"""A cluster with data, its backup, and an empty cluster, for each file here."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.minikv import Faults
from tests.support.br_cluster import SEED, Cluster, cluster
from tests.support.servers import S3, seaweed


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with seaweed(tmp_path_factory.mktemp("weed")) as server:
        server.client().create_bucket(Bucket="bkt")
        yield server


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, s3: S3) -> Iterator[Cluster]:
    """A cluster with data; backed up, never restored into."""
    with cluster(tmp_path_factory.mktemp("source"), s3) as made:
        made.db.execute(*SEED)
        yield made


@pytest.fixture(scope="module")
def backup(source: Cluster) -> str:
    """The path of a full backup, made once."""
    run = source.keep("backup-full", source.br("backup", "full", *source.at("full"), "--checksum=true"))
    assert run.succeeded, run.error
    assert len(re.findall(r'\[progress\] \[step="Full Backup"\] \[progress=100\.00%\]', run.stdout)) == 1
    assert len(re.findall(r"\[progress\] \[step=Checksum\] \[progress=100\.00%\]", run.stdout)) == 1
    return "full"


@pytest.fixture(autouse=True)
def _no_faults_left(source: Cluster) -> Iterator[None]:
    yield
    source.kv.set_faults(Faults())


@pytest.fixture
def target(tmp_path: Path, s3: S3) -> Iterator[Cluster]:
    """An empty cluster to restore into."""
    with cluster(tmp_path, s3) as made:
        yield made
