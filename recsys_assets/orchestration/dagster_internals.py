"""Dagster's private names: why each is used, and which public interface would replace it.

All other modules import these names from here, so that an upgrade of Dagster is checked in one place. The version range
of Dagster in pyproject.toml is narrow because of these names.

- `services`, `webserver`: `ProxyServerManager`, the workspace classes and `configure_loggers` start what `dagster dev`
  starts, with a webserver that checks Host and Origin. A public way to add middleware would replace them.
- `run_history`: the storage classes, their tables, `TickStatus`, `InstigatorType`, `StepMaterializationData`,
  `LocalComputeLogManager`, `replace_record`, the names of runless events and SQLite's timeout delete the events and
  files of old runs. A retention of runs and events in dagster.yaml would replace them.
- `event_log`: `SqliteEventLogStorage` and its `_connect`, `INDEX_SHARD_NAME` and SQLite's timeout keep connections open
  during a run. An event log that pools its connections to SQLite would replace them.
- `clock`: `SensorInstigatorData`, `ScheduleInstigatorData` and the table of ticks hold future times after the clock was
  set back. A daemon that measures intervals by a monotonic clock would replace them.
- `locking`: `PlanOrchestrationContext`, `ExecutionPlan`, `RetryMode`, `StepDependencyConfig` and `raise_interrupts_as`
  wrap an executor. A public base class for wrapping executors would replace them.
- `locking`, `launcher`: `EngineEventData` names the process of a run; `CheckRunHealthResult` and `WorkerStatus` say
  whether the process lives. `GRPC_INFO_TAG`, `DagsterGrpcClient`, the two classes of `CanCancelExecution` and
  `DagsterUserCodeUnreachableError` ask the code server of another container. Health checks of the default launcher
  would replace them.
- `resume`, `retries`, `backfill`: run tags that tell the daemon whether to retry, and that name the run before.
- `code_location`: the run tag and the origin by which the UI lists a run under its job and in the timeline. A public
  way to create a run of a job in this process as a run of a code location would replace them.
- `failures`, `run_events`: `DagsterAssetCheckFailedError`, `SerializableErrorInfo` and `JobFailureData` hold the error
  of a step or a run. Public events return objects of these types, so only exports are missing.
- `checks.results`: `AssetCheckExecutionRecord` is the type of a stored check result. An export would be enough.
"""

from dagster._cli.proxy_server_manager import ProxyServerManager
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.errors import DagsterAssetCheckFailedError, DagsterUserCodeUnreachableError
from dagster._core.events import EngineEventData, JobFailureData, StepMaterializationData
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.retries import RetryMode
from dagster._core.execution.step_dependency_config import StepDependencyConfig
from dagster._core.instance.utils import RUNLESS_JOB_NAME, RUNLESS_RUN_ID
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import ScheduleInstigatorData, SensorInstigatorData, TickStatus
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    AssetKeyTable,
    SqlEventLogStorageTable,
)
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME, SqliteEventLogStorage
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.runs.schema import RunTagsTable
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage
from dagster._core.storage.schedules.schema import JobTickTable
from dagster._core.storage.schedules.sql_schedule_storage import SqlScheduleStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._core.storage.tags import (
    AUTO_RETRY_RUN_ID_TAG,
    GRPC_INFO_TAG,
    MAX_RETRIES_TAG,
    PARENT_RUN_ID_TAG,
    REPOSITORY_LABEL_TAG,
    RETRY_ON_ASSET_OR_OP_FAILURE_TAG,
    ROOT_RUN_ID_TAG,
    WILL_RETRY_TAG,
)
from dagster._core.workspace.context import IWorkspaceProcessContext, WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget, WorkspaceFileTarget
from dagster._grpc.client import DagsterGrpcClient
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
from dagster._utils.error import SerializableErrorInfo
from dagster._utils.interrupts import raise_interrupts_as
from dagster._utils.log import configure_loggers
from dagster_shared.record import replace as replace_record

__all__ = [
    "AUTO_RETRY_RUN_ID_TAG",
    "GRPC_INFO_TAG",
    "INDEX_SHARD_NAME",
    "MAX_RETRIES_TAG",
    "PARENT_RUN_ID_TAG",
    "REPOSITORY_LABEL_TAG",
    "RETRY_ON_ASSET_OR_OP_FAILURE_TAG",
    "ROOT_RUN_ID_TAG",
    "RUNLESS_JOB_NAME",
    "RUNLESS_RUN_ID",
    "SQLITE_BUSY_TIMEOUT_SECONDS",
    "WILL_RETRY_TAG",
    "AssetCheckExecutionRecord",
    "AssetCheckExecutionsTable",
    "AssetEventTagsTable",
    "AssetKeyTable",
    "CanCancelExecutionRequest",
    "CanCancelExecutionResult",
    "CheckRunHealthResult",
    "DagsterAssetCheckFailedError",
    "DagsterGrpcClient",
    "DagsterUserCodeUnreachableError",
    "EngineEventData",
    "ExecutionPlan",
    "IWorkspaceProcessContext",
    "InstigatorType",
    "JobFailureData",
    "JobTickTable",
    "LocalComputeLogManager",
    "ModuleTarget",
    "PlanOrchestrationContext",
    "ProxyServerManager",
    "RegisteredCodeLocationOrigin",
    "RemoteJobOrigin",
    "RemoteRepositoryOrigin",
    "RetryMode",
    "RunTagsTable",
    "ScheduleInstigatorData",
    "SensorInstigatorData",
    "SerializableErrorInfo",
    "SqlEventLogStorage",
    "SqlEventLogStorageTable",
    "SqlRunStorage",
    "SqlScheduleStorage",
    "SqliteEventLogStorage",
    "StepDependencyConfig",
    "StepMaterializationData",
    "TickStatus",
    "WorkerStatus",
    "WorkspaceFileTarget",
    "WorkspaceProcessContext",
    "configure_loggers",
    "raise_interrupts_as",
    "replace_record",
]
