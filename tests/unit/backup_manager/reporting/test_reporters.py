"""Reports: sparse, in order, never lost when it matters, and never another Job's."""

import io
import json
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backup_manager.errors import AccessDeniedError, ManagerError, UnreachableError, UsageError
from backup_manager.kubernetes.client import ApiInvalidError, ConflictError, KubernetesApi
from backup_manager.masking import Masker
from backup_manager.reporting.journal import Journal
from backup_manager.reporting.reporters import (
    JobAnnotationReporter,
    LinesReporter,
    Pace,
    open_reporter,
    readable,
    write_termination_message,
)
from crds.contract.report import ANNOTATION, MAX_BYTES, TERMINATION_BYTES, Phase, Problem, Report, StepProgress
from sandbox.patience import PATIENCE, until
from tests.support.manager import NOW, RememberingReporter


class FakeApi:
    """The Job's side of the API server; *errors* are raised by the next patches, one each."""

    def __init__(self, uid: str = "job-uid") -> None:
        self.uid = uid
        self.reports: list[Report] = []
        self.errors: list[ManagerError | None] = []
        self.begun = 0
        self.answers = threading.Event()
        """Until it is set, no patch is answered."""
        self.answers.set()

    def annotate_job(self, _namespace: str, _name: str, uid: str, annotations: dict[str, str]) -> None:
        self.begun += 1
        assert self.answers.wait(PATIENCE)
        if error := self.errors.pop(0) if self.errors else None:
            raise error
        if uid and uid != self.uid:
            raise ConflictError("uid")
        report = Report.parse(annotations[ANNOTATION])
        assert report is not None
        self.reports.append(report)

    def job(self, _namespace: str, _name: str) -> dict[str, Any]:
        return {"metadata": {"uid": self.uid}}


def job_reporter(
    api: FakeApi, *, uid: str = "job-uid", every: float = 0.05, store_seconds: float = 5.0
) -> JobAnnotationReporter:
    return JobAnnotationReporter(
        api,  # type: ignore[arg-type]
        namespace="ns",
        job="backup-x",
        uid=uid,
        log=lambda _line: None,
        pace=Pace(every=every),
        store_seconds=store_seconds,
    )


def report(seq: int, percent: float = 0.0, phase: Phase = Phase.RUNNING) -> Report:
    return Report(seq=seq, phase=phase, progress=(StepProgress(step="Dump", progress=percent),))


def test_pace_lets_milestones_through_and_holds_the_rest_back() -> None:
    now = [0.0]
    pace = Pace(every=10, clock=lambda: now[0])
    assert pace.wait(report(1)) == 0
    pace.sent(report(1))
    assert pace.wait(report(2, 50)) == 10
    now[0] = 4
    assert pace.wait(report(3, 60)) == 6
    assert pace.wait(report(3, 100)) == 0
    assert pace.wait(report(3, 50, Phase.WAITING)) == 0
    look = report(3, 50).but(result={"observedAt": "2026-01-31T00:00:00Z"})
    assert pace.wait(look) == 0
    pace.sent(look)
    assert pace.wait(look) == 10


def test_a_thousand_offers_are_a_few_patches_and_the_newest_wins() -> None:
    api = FakeApi()
    api.answers.clear()
    reporter = job_reporter(api)
    for seq in range(1000):
        reporter.offer(report(seq, seq / 20))
    api.answers.set()
    until(lambda: bool(api.reports) and api.reports[-1].seq == 999, "the newest one arrives")
    assert len(api.reports) <= 3
    reporter.close()


def test_progress_never_blocks_the_work() -> None:
    api = FakeApi()
    api.answers.clear()
    reporter = job_reporter(api)
    for seq in range(100):  # goes on although no patch has been answered
        reporter.offer(report(seq, phase=Phase.RUNNING if seq % 2 else Phase.WAITING))
    until(lambda: api.begun == 1, "the first patch is on its way")
    assert api.reports == []
    api.answers.set()
    reporter.close()


def test_progress_that_cannot_be_sent_is_dropped_quietly() -> None:
    api = FakeApi()
    api.errors = [UnreachableError("down"), AccessDeniedError("no")]
    reporter = job_reporter(api)
    reporter.offer(report(1))
    until(lambda: len(api.errors) == 1, "the first one was dropped")
    reporter.offer(report(2, 100))
    until(lambda: not api.errors, "the second one was dropped")
    reporter.store(report(3, 100, Phase.COMPLETE))
    assert [r.seq for r in api.reports] == [3]
    reporter.close()


def test_the_final_report_survives_conflicts_and_an_outage() -> None:
    api = FakeApi()
    api.errors = [ConflictError("409"), ConflictError("409"), UnreachableError("503"), ConflictError("409"), None]
    reporter = job_reporter(api)
    reporter.store(report(7, 100, Phase.COMPLETE))
    assert [r.phase for r in api.reports] == [Phase.COMPLETE]
    reporter.close()


def test_another_job_of_this_name_is_never_written_to() -> None:
    api = FakeApi(uid="another")
    reporter = job_reporter(api, uid="job-uid")
    with pytest.raises(ConflictError):
        reporter.store(report(1, phase=Phase.COMPLETE))
    assert api.reports == []
    reporter.close()


def test_a_final_report_that_cannot_be_stored_is_an_error() -> None:
    api = FakeApi()
    api.errors = [UnreachableError("down") for _ in range(100)]
    reporter = job_reporter(api, store_seconds=0.3)
    with pytest.raises(UnreachableError):
        reporter.store(report(1, phase=Phase.COMPLETE))
    reporter.close()


def test_a_report_that_the_api_server_calls_invalid_is_not_tried_again() -> None:
    api = FakeApi()
    api.errors = [ApiInvalidError("422")]
    reporter = job_reporter(api)
    with pytest.raises(ApiInvalidError):
        reporter.store(report(1, phase=Phase.COMPLETE))
    assert api.errors == []
    reporter.close()


def test_a_final_report_is_tried_until_the_pod_is_killed_and_no_longer() -> None:
    left = iter([5.0, 4.0, 0.2, 0.1, 0.0, 0.0, 0.0])
    api, waited = FakeApi(), list[float]()
    api.errors = [UnreachableError("down") for _ in range(100)]
    reporter = JobAnnotationReporter(
        api,  # type: ignore[arg-type]
        namespace="ns",
        job="backup-x",
        uid="job-uid",
        log=lambda _line: None,
        left=lambda: next(left, 0.0),
        sleep=waited.append,
    )
    with pytest.raises(UnreachableError):
        reporter.store(report(1, phase=Phase.FAILED))
    assert len(api.errors) > 95
    assert max(waited) <= 4.0
    reporter.close()


def test_progress_is_not_sent_any_more_when_the_pod_is_about_to_be_killed() -> None:
    api, left = FakeApi(), [float("inf")]
    reporter = JobAnnotationReporter(
        api,  # type: ignore[arg-type]
        namespace="ns",
        job="backup-x",
        uid="job-uid",
        log=lambda _line: None,
        pace=Pace(every=0.0),
        left=lambda: left[0],
    )
    reporter.offer(report(1, 10))
    until(lambda: [r.seq for r in api.reports] == [1], "the first one arrives")
    left[0] = 30.0
    reporter.offer(report(2, 20))
    until(lambda: reporter._newest is None, "the second one is taken up")
    reporter.store(report(3, 20, Phase.FAILED))
    reporter.close()
    assert [r.seq for r in api.reports] == [1, 3]


def test_the_first_outcome_stays() -> None:
    reporter = RememberingReporter()
    journal = Journal(reporter, clock=lambda: NOW)
    journal.fail(Problem(reason="Interrupted", message="stopped"))
    with pytest.raises(ManagerError):
        journal.complete(commit_ts="7")
    journal.fail(Problem(reason="Other", message="later"))
    journal.waiting(Problem(reason="W"))
    journal.running()
    assert {(r.phase, r.error.reason if r.error else "") for r in reporter.stored} == {(Phase.FAILED, "Interrupted")}
    assert reporter.offered == []


def test_a_forbidden_report_is_not_tried_for_minutes() -> None:
    api = FakeApi()
    api.errors = [AccessDeniedError("forbidden")]
    reporter = job_reporter(api)
    with pytest.raises(AccessDeniedError):
        reporter.store(report(1, phase=Phase.COMPLETE))
    reporter.close()


def test_a_late_progress_report_never_overwrites_a_stored_one() -> None:
    api = FakeApi()
    reporter = job_reporter(api, every=0.0)
    for seq in range(1, 40, 2):
        reporter.offer(report(seq, seq))
        if seq % 10 == 1:
            reporter.store(report(seq + 1, seq))
    reporter.store(report(99, 100, Phase.COMPLETE))
    reporter.offer(report(98, 100))  # late
    reporter.offer(report(100, 100))
    until(lambda: api.reports[-1].seq == 100, "what follows the late one arrives")
    sequence = [r.seq for r in api.reports]
    assert sequence == sorted(sequence)
    assert sequence[-2:] == [99, 100]
    reporter.close()


def test_lines_are_json_where_no_terminal_is() -> None:
    stream = io.StringIO()
    reporter = LinesReporter(stream)
    reporter.offer(report(1))
    reporter.offer(report(2, 5))
    reporter.store(report(3, 100, Phase.COMPLETE))
    assert [json.loads(line)["seq"] for line in stream.getvalue().splitlines()] == [1, 3]


def test_a_terminal_gets_one_line_that_is_written_over() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    reporter = LinesReporter(stream, pace=Pace(every=0))
    reporter.offer(report(1, 42))
    reporter.store(Report(seq=2, phase=Phase.COMPLETE, backup_path="s3://b/p", backup_size=5024, commit_ts="47"))
    assert stream.getvalue() == "\rRunning  Dump 42%\rComplete  s3://b/p  5.0 kB  commitTs 47\n"


def test_a_readable_line_names_the_failure_and_the_fix() -> None:
    failed = Report(seq=1, phase=Phase.FAILED, error=Problem(reason="DiskFull", message="no room", hint="Make some."))
    assert readable(failed) == "Failed  DiskFull: no room  Make some."


def test_where_reports_go(tmp_path: Path) -> None:
    def api() -> KubernetesApi:
        raise AssertionError("not asked for")

    assert isinstance(open_reporter("", api=api, env={}, namespace="", log=print), LinesReporter)
    file = open_reporter(str(tmp_path / "r.jsonl"), api=api, env={"JOB_NAME": "j"}, namespace="", log=print)
    file.store(report(1))
    file.close()
    assert json.loads((tmp_path / "r.jsonl").read_text())["seq"] == 1
    with pytest.raises(UsageError):
        open_reporter("job", api=api, env={}, namespace="", log=print)
    with pytest.raises(UsageError):
        open_reporter(str(tmp_path / "no" / "folder"), api=api, env={}, namespace="", log=print)


def test_last_words_fit_and_stay_readable(tmp_path: Path) -> None:
    path = tmp_path / "termination-log"
    write_termination_message(report(1), path)
    assert not path.exists()
    path.touch()
    long = Problem(reason="R", message="m" * 900, hint="h" * 900)
    write_termination_message(Report(seq=1, phase=Phase.FAILED, error=long, result={"examples": ["k" * 100] * 50}), path)
    assert len(path.read_bytes()) <= TERMINATION_BYTES
    said = Report.parse(path.read_text())
    assert said is not None
    assert said.error is not None
    assert said.error.reason == "R"


def test_steps_close_one_another_and_only_grow() -> None:
    journal = Journal(RememberingReporter(), clock=lambda: NOW)
    journal.step("Prepare", 50)
    journal.step("Dump", 30)
    journal.step("Dump", 20)
    assert [(p.step, p.progress) for p in journal.report.progress] == [("Prepare", 100.0), ("Dump", 30.0)]


def test_the_path_is_stored_not_offered() -> None:
    reporter = RememberingReporter()
    Journal(reporter, clock=lambda: NOW).path("s3://b/p")
    assert [r.backup_path for r in reporter.stored] == ["s3://b/p"]


def test_every_report_has_a_larger_number_from_many_threads() -> None:
    journal = Journal(RememberingReporter(), clock=lambda: datetime.now(UTC))

    def work() -> None:
        for percent in range(100):
            journal.step("Dump", percent)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert journal.report.seq == 400
    assert journal.report.progress[0].progress == 99


def test_secrets_never_enter_a_report() -> None:
    reporter = RememberingReporter()
    journal = Journal(reporter, masker=Masker(["hunter22"]), clock=lambda: NOW)
    journal.note(argv=["--x=hunter22", {"deep": "hunter22"}])
    journal.fail(Problem(reason="R", message="login hunter22 failed", hint="not hunter22"))
    text = reporter.stored[-1].to_json()
    assert "hunter22" not in text
    assert len(text) < MAX_BYTES
