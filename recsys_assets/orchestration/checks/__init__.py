"""Asset checks: the rules that a materialized asset must keep.

A broken rule of severity ERROR stops the downstream steps of the run. Each result reports the actual value, the
expected value and the threshold. The rules are computed by `recommender.evaluation.quality`. The modules here decide
when an asset is checked and which earlier state it is compared with.
"""

from recsys_assets.orchestration.checks import declared, segments

CHECKS = [*declared.CHECKS, *segments.CHECKS]
