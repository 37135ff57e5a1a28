"""Turns findings into results of asset checks, and reads the last good state from earlier results.

The rules themselves are in `rules` and `segments`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from recsys_assets.orchestration.dagster_internals import AssetCheckExecutionRecord
from recsys_assets.recommender.evaluation.quality import Finding

FACTS = "facts"
# Number of results that are searched for the last good one.
_LOOKED_BACK = 50
# Up to version 0.8, each asset had one check, of this name.
BEFORE_0_9 = "sound"


def check_result(key: dg.AssetCheckKey, findings: Sequence[Finding], facts: Mapping[str, Any]) -> dg.AssetCheckResult:
    """One result for all rules of an asset: ERROR if a severe rule is broken, WARN if only other rules are broken.

    Args:
        key: key of the check.
        findings: one finding per rule; at least one.
        facts: JSON values that later checks are compared with.
    """
    broken = [finding for finding in findings if not finding.passed]
    severe = any(finding.severe for finding in broken)
    return dg.AssetCheckResult(
        asset_key=key.asset_key,
        check_name=key.name,
        passed=not broken,
        severity=dg.AssetCheckSeverity.ERROR if severe else dg.AssetCheckSeverity.WARN,
        description="; ".join(map(_told, broken)) or None,
        metadata={
            "actual: broken rules": len(broken),
            "rules": dg.MetadataValue.table([_record(finding) for finding in findings]),
            **({FACTS: dg.MetadataValue.json(dict(facts))} if facts else {}),
        },
    )


def _told(finding: Finding) -> str:
    found = f"{finding.rule}: found {_shown(finding.actual)}, allowed {_shown(finding.threshold)}"
    return f"{found} ({finding.detail})" if finding.detail else found


def _record(finding: Finding) -> dg.TableRecord:
    return dg.TableRecord(
        {
            "rule": finding.rule,
            "actual": _shown(finding.actual),
            "expected": _shown(finding.expected),
            "threshold": _shown(finding.threshold),
            "severity": "ERROR" if finding.severe else "WARN",
            "passed": finding.passed,
            "detail": finding.detail,
        }
    )


def _shown(value: float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def last_good_facts(instance: dg.DagsterInstance, key: dg.AssetCheckKey) -> Mapping[str, Any]:
    """The facts of the newest result of a check that has some; empty if there is none.

    Only results of a state that broke no severe rule have facts: otherwise a second bad state would look unchanged.
    """
    return next(filter(None, map(_facts, _evaluations(instance, key))), {})


def _facts(evaluation: dg.AssetCheckEvaluation) -> Mapping[str, Any]:
    facts = evaluation.metadata.get(FACTS)
    is_given = isinstance(facts, dg.JsonMetadataValue) and isinstance(facts.value, dict) and _is_good(evaluation)
    return facts.value if is_given else {}  # type: ignore[union-attr, return-value]


def was_good(instance: dg.DagsterInstance, keys: Sequence[dg.AssetCheckKey]) -> bool | None:
    """Whether the newest materialization of an asset broke no severe rule of its checks; None if one is missing.

    Args:
        instance: the instance with the results.
        keys: the checks of the asset; at least one.
    """
    newest = instance.fetch_materializations(keys[0].asset_key, limit=1).records
    found = [_was_good(instance, key, newest[0].storage_id) for key in keys] if newest else [None]
    if newest and None in found:
        before = _was_good(instance, dg.AssetCheckKey(keys[0].asset_key, BEFORE_0_9), newest[0].storage_id)
        return before if before is not None or False not in found else False
    return None if None in found else False not in found


def _was_good(instance: dg.DagsterInstance, key: dg.AssetCheckKey, materialization: int) -> bool | None:
    for evaluation in _evaluations(instance, key):
        target = evaluation.target_materialization_data
        if target and target.storage_id == materialization:
            return _is_good(evaluation)
    return None


def needed_evaluations(instance: dg.DagsterInstance, key: dg.AssetCheckKey) -> set[int]:
    """Ids of the results of a check that `was_good` and `last_good_facts` read: the newest one, and that with facts."""
    found = list(_evaluated(instance, key))
    good = [record for record, evaluation in found if _facts(evaluation)]
    return {record.id for record in (*[record for record, _ in found][:1], *good[:1])}


def _evaluations(instance: dg.DagsterInstance, key: dg.AssetCheckKey) -> Iterator[dg.AssetCheckEvaluation]:
    """The results of a check, the newest first."""
    return (evaluation for _, evaluation in _evaluated(instance, key))


def _evaluated(
    instance: dg.DagsterInstance, key: dg.AssetCheckKey
) -> Iterator[tuple[AssetCheckExecutionRecord, dg.AssetCheckEvaluation]]:
    for record in instance.event_log_storage.get_asset_check_execution_history(key, limit=_LOOKED_BACK):
        event = record.event.dagster_event if record.event else None
        if event and event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            yield record, event.asset_check_evaluation_data


def _is_good(evaluation: dg.AssetCheckEvaluation) -> bool:
    return evaluation.passed or evaluation.severity == dg.AssetCheckSeverity.WARN
