"""The models: field for field what the contract names, defaults, and what they never show."""

from typing import Any

import pytest
from pydantic import ValidationError

from crds.v1alpha1 import KINDS, Backup, BackupSchedule, Restore
from crds.v1alpha1.common import Model

SHARED = """resources env s3 gcs azblob local br tolerations affinity toolImage imagePullSecrets useKMS serviceAccount
    automountServiceAccountToken podSecurityContext priorityClassName additionalVolumes additionalVolumeMounts"""
DATABASE = """tikvGCLifeTime storageClassName volumeAttributesClassName storageSize tableFilter backupType
    backoffRetryPolicy"""
FIELDS = {
    "Backup.spec": f"""{SHARED} {DATABASE} from backupMode commitTs logSubcommand logStop logTruncateUntil calcSizeLevel
        federalVolumeBackupPhase resumeGcSchedule volumeBackupInitJobMaxActiveSeconds dumpling cleanPolicy cleanOption""",
    "Backup.spec.cleanOption": """pageSize retryCount backoffEnabled disableBatchConcurrency batchConcurrency
        routineConcurrency snapshotsDeleteRatio""",
    "Backup.spec.backoffRetryPolicy": "minRetryDuration maxRetryTimes retryTimeout",
    "Backup.spec.from": "host port user secretName tlsClientSecretName",
    "Backup.spec.dumpling": "options tableFilter users",
    "Backup.spec.br": """cluster clusterNamespace db table logLevel statusAddr concurrency rateLimit timeAgo checksum
        checkRequirements sendCredToTikv onLine options""",
    "Backup.spec.s3": """provider region path bucket endpoint storageClass acl secretName prefix sse options
        forcePathStyle""",
    "Backup.spec.gcs": "projectId location path bucket storageClass objectAcl bucketAcl secretName prefix",
    "Backup.spec.azblob": "path container accessTier secretName storageAccount sasToken prefix",
    "Backup.spec.local": "volume volumeMount prefix",
    "Backup.status": """backupPath timeStarted timeCompleted timeTaken timeSynced backupSize backupSizeReadable
        incrementalBackupSize incrementalBackupSizeReadable commitTs logCheckpointTs logSuccessTruncateUntil phase conditions
        logTask logSubCommandStatuses progresses brOperations backoffRetryStatus
        observedGeneration progress eta cleanStatus recorded awaitedJobs leftOut""",
    "Backup.status.conditions": "command type status lastTransitionTime reason message observedGeneration",
    "Backup.status.progresses": "step progress lastTransitionTime",
    "Backup.status.brOperations": "operationID startedAt command observedAt",
    "Backup.status.backoffRetryStatus": "retryNum detectFailedAt expectedRetryAt realRetryAt retryReason originalReason",
    "Backup.status.logSubCommandStatuses": "command timeStarted timeCompleted logTruncatingUntil phase conditions",
    "Backup.status.cleanStatus": "attempt deleted failed left deferredUntil deferrals message nextAttemptAt",
    "Restore.spec": f"""{SHARED} {DATABASE} to restoreMode pitrRestoredTs logRestoreStartTs pitrFullBackupStorageProvider
        users prune backoffLimit replicationConfig federalVolumeRestorePhase volumeAZ warmup warmupImage warmupStrategy
        tolerateSingleTiKVOutage""",
    "Restore.spec.replicationConfig": "compactBackupName waitTimeout",
    "Restore.spec.pitrFullBackupStorageProvider": "s3 gcs azblob local",
    "Restore.status": """timeStarted timeCompleted timeTaken commitTs phase conditions progresses brOperations
        replicationStep observedGeneration progress eta backupPath backoffRetryStatus
        recorded awaitedJobs leftOut""",
    "BackupSchedule.spec": """schedule pause maxBackups maxReservedTime backupTemplate logBackupTemplate
        compactBackupTemplate compactInterval minCompactStartTs storageClassName volumeAttributesClassName storageSize
        imagePullSecrets br s3 gcs azblob local
        timeZone startingDeadlineSeconds runImmediately concurrencyPolicy failedHistoryLimit retention""",
    "BackupSchedule.spec.retention": """keepLast keepHourly keepDaily keepWeekly keepMonthly keepYearly keepWithin
        minKeep""",
    "BackupSchedule.status": """lastBackup lastBackupTime allBackupCleanTime logBackup logBackupStartTs lastCompact
        lastCompactProgress lastCompactExecutionTs lastScheduleTime
        observedGeneration conditions nextBackupTime lastSuccessTime recoveryWindow retention logTruncateUntil
        timetable clockCheck requested""",
    "BackupSchedule.status.timetable": "schedule timeZone since",
    "BackupSchedule.status.clockCheck": "shown answer",
    "BackupSchedule.status.recoveryWindow": "from to gaps",
    "BackupSchedule.status.recoveryWindow.gaps": "from to",
    "BackupSchedule.status.retention": "kept oldest expiring",
    "CompactBackup.spec": f"""{SHARED} mode shardCount startTs endTs concurrency maxRetryTimes tikvImage
        physicalFileCacheCapacity name""",
    "CompactBackup.status": """state progress message endTs completedIndexes failedIndexes backoffRetryStatus
        observedGeneration conditions recorded awaitedJobs""",
}


def _model_at(path: str) -> type[Model]:
    kind, *parts = path.split(".")
    model: type[Model] = KINDS[kind]
    for part in parts:
        (annotation,) = (field.annotation for name, field in model.model_fields.items() if (field.alias or name) == part)
        inner = _model_in(annotation)
        assert inner is not None
        model = inner
    return model


def _model_in(annotation: Any) -> type[Model] | None:
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return annotation
    return next((found for part in getattr(annotation, "__args__", ()) if (found := _model_in(part))), None)


@pytest.mark.parametrize("path", FIELDS)
def test_has_exactly_the_fields_of_the_contract(path: str) -> None:
    fields = {field.alias or name for name, field in _model_at(path).model_fields.items()}
    assert fields == set(FIELDS[path].split())


def _resource(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "pingcap.com/v1alpha1", "kind": kind, "metadata": {"name": "x"}, "spec": spec}


def test_defaults_of_a_backup() -> None:
    spec = Backup.model_validate(_resource("Backup", {"br": {"cluster": "c"}, "cleanOption": {}})).spec
    assert (spec.backup_mode, spec.clean_policy, spec.calc_size_level) == ("snapshot", "Retain", "all")
    policy = spec.backoff_retry_policy
    assert (policy.min_retry_duration, policy.max_retry_times, policy.retry_timeout) == ("300s", 2, "30m")
    assert spec.clean_option is not None
    assert (spec.clean_option.retry_count, spec.clean_option.snapshots_delete_ratio) == (5, 1)
    assert spec.volume_backup_init_job_max_active_seconds == 600


def test_an_explicit_zero_of_retries_stays() -> None:
    spec = Backup.model_validate(_resource("Backup", {"br": {"cluster": "c"}, "backoffRetryPolicy": {"maxRetryTimes": 0}})).spec
    assert spec.backoff_retry_policy.max_retry_times == 0


def test_defaults_of_a_restore_and_of_a_schedule() -> None:
    restore = Restore.model_validate(_resource("Restore", {"br": {"cluster": "c"}})).spec
    assert (restore.restore_mode, restore.warmup_strategy, restore.backoff_limit) == ("snapshot", "hybrid", 0)
    template = {"schedule": "@daily", "backupTemplate": {"br": {"cluster": "c"}}, "retention": {"keepLast": 3}}
    schedule = BackupSchedule.model_validate(_resource("BackupSchedule", template)).spec
    assert (schedule.concurrency_policy, schedule.failed_history_limit, schedule.run_immediately) == ("Forbid", 5, False)
    assert schedule.retention is not None
    assert schedule.retention.min_keep == 1


def test_credentials_do_not_show() -> None:
    spec = {"br": {"cluster": "c"}, "azblob": {"sasToken": "hush-sas"}, "env": [{"name": "K", "value": "hush-env"}]}
    backup = Backup.model_validate(_resource("Backup", spec))
    assert backup.spec.azblob is not None
    assert backup.spec.azblob.sas_token == "hush-sas"
    assert "hush" not in repr(backup)
    assert "hush" not in str(backup)


def test_credentials_do_not_show_in_errors() -> None:
    with pytest.raises(ValidationError) as caught:
        Backup.model_validate(
            _resource("Backup", {"br": {"cluster": "c"}, "azblob": {"sasToken": {"x": "hush"}, "nope": "hush"}})
        )
    assert "hush" not in str(caught.value)


def test_a_broken_rule_says_so_in_the_error_itself() -> None:
    with pytest.raises(ValidationError, match="more than one storage"):
        Backup.model_validate(
            _resource("Backup", {"br": {"cluster": "c"}, "s3": {"provider": "aws"}, "gcs": {"projectId": "p"}})
        )


def test_kind_and_version_must_fit() -> None:
    with pytest.raises(ValidationError):
        Restore.model_validate(_resource("Backup", {"br": {"cluster": "c"}}))


def test_times_are_utc_with_whole_seconds() -> None:
    resource = _resource("Backup", {"br": {"cluster": "c"}}) | {
        "status": {"timeStarted": "2026-01-31T10:00:00.25+08:00", "timeCompleted": None, "conditions": None}
    }
    status = Backup.model_validate(resource).status
    assert status is not None
    assert status.model_dump(mode="json", exclude_unset=True) == {"timeStarted": "2026-01-31T02:00:00Z"}
