"""Asset checks: the rules that a materialized asset must keep.

A broken rule of severity ERROR stops the downstream steps of the run. Each result reports the actual value, the
expected value and the threshold. The rules are computed by `recommender.evaluation.quality`. The modules here decide
when an asset is checked and which earlier state it is compared with.
"""

from collections.abc import Sequence

import dagster as dg

from recsys_assets.orchestration.checks import declared, segments
from recsys_assets.recommender.data.kind import RATINGS_WITH_TIMES, DataKind


def checks_of(kind: DataKind) -> Sequence[dg.AssetChecksDefinition]:
    """The checks of the assets of a kind of data."""
    return [*declared.checks_of(kind), *segments.checks_of(kind)]


CHECKS = checks_of(RATINGS_WITH_TIMES)
