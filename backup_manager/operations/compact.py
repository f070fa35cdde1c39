"""Compact a log backup: ``br operator base64ify`` describes the storage, ``tikv-ctl compact-log-backup`` does the work.

It works on the storage alone, so it takes no Lease of the cluster. No clean deletes the log meanwhile
(:mod:`backup_manager.catalog.readers`). The Pods of a sharded one share one Job and so one report;
which shards are done is what Kubernetes itself says.
"""

import subprocess
from typing import Any, Final

from backup_manager.catalog import readers
from backup_manager.context import Context, Result
from backup_manager.errors import ToolError, UsageError
from backup_manager.masking import Masker, secrets_of
from backup_manager.signals import StopSignal
from backup_manager.storage.factory import open_storage
from backup_manager.storage.tool_urls import ToolStorage, for_br
from backup_manager.tools import br_runner, flag_probe, process, tikv_ctl
from backup_manager.tools.error_table import failure
from crds.contract import names, paths

REASON: Final = "CompactBackupFailed"
_ENCODE_SECONDS: Final = 60


def run(context: Context) -> Result:
    """Compact the stretch that the CR names."""
    spec = context.resource.spec
    work = tikv_ctl.Work.of(spec, context.env)
    try:
        location = paths.location_of(spec)
    except paths.PathError as error:
        raise UsageError(str(error), hint="Correct the storage in the spec.") from None
    target = for_br(spec, location, env=context.env, scratch=context.scratch)
    source = open_storage(spec, location=location, env=context.env)
    tool = process.find_tool(tikv_ctl.NAME, names.KVCTL_BIN_DIR, context.env)
    _must_know(context, [tool, *work.argv("probe")])
    storage = _encoded(context, target)
    context.journal.running()
    context.journal.step("Compact")
    with readers.reading(context, source):
        heard = _compact(context, [tool, *work.argv(storage)], target, storage)
    context.journal.step("Compact", 100)
    details: dict[str, Any] = {"compactions": heard.finished, "progress": heard.progress}
    if heard.end:
        details["endTs"] = str(heard.end)
    return Result(details=details)


def _must_know(context: Context, argv: list[str]) -> None:
    """The flags of a sharded compaction are young. Without them every Pod would compact everything."""
    hint = "Set spec.tikvImage to a newer TiKV; a tikv-ctl without --shard can work in the default mode."
    flag_probe.require(argv, needed_by="the compaction", hint=hint, env=context.env, cwd=context.scratch)


def _encoded(context: Context, target: ToolStorage) -> str:
    """The storage as br describes it to TiKV. Its logs would end up in the result, so they go elsewhere; the result itself,
    which holds the token of an Azure URL, is never logged."""
    argv = [br_runner.find(context), "operator", "base64ify", *target.br_arguments]
    env = {name: value for name, value in {**context.env, **target.env}.items() if name != "BR_LOG_TO_TERM"}
    env["TMPDIR"] = str(context.scratch)
    try:
        done = subprocess.run(  # noqa: S603  (argv is a list of ours, no shell reads it)
            argv, env=env, cwd=context.scratch, capture_output=True, text=True, timeout=_ENCODE_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolError(
            f"br operator base64ify could not be run: {type(error).__name__}", reason=REASON, retryable=True
        ) from None
    storage = done.stdout.strip()
    if done.returncode != 0 or not storage or any(char.isspace() for char in storage):
        said = context.mask(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no result")
        raise ToolError(
            f"br cannot describe the storage: {said[:300]}", reason=REASON, hint="Check spec.br.options and the storage."
        )
    return storage


def _compact(context: Context, argv: list[str], target: ToolStorage, storage: str) -> tikv_ctl.CompactionOutput:
    heard, stop = tikv_ctl.CompactionOutput(), StopSignal()

    def hear(_stream: process.Stream, line: str) -> None:
        if not heard.line(line):
            return
        if heard.aborted:
            stop.request()  # it says that it gave up, and may linger for long
            return
        context.journal.note(progress=heard.progress, **({"endTs": str(heard.end)} if heard.end else {}))
        context.journal.step("Compact", heard.percent, done=heard.compacted[0])

    mask = Masker([*secrets_of(context.env, context.resource.spec), storage])
    with context.stop.listen(stop.request):
        ended = process.run(
            argv,
            env={**context.env, **target.env},
            stop=stop,
            mask=mask,
            log=context.log,
            on_line=hear,
            cwd=context.scratch,
        )
    if heard.aborted and not context.stop.requested:
        raise ToolError(
            f"tikv-ctl gave up: {mask(heard.aborted)[:400]}",
            reason=REASON,
            retryable=True,
            hint="The log of the Pod has the details.",
        )
    if ended.code != 0 or ended.stopped:
        raise failure(tikv_ctl.NAME, ended, reason=REASON, mask=mask)
    return heard
