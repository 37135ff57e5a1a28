"""Asset checks: what must hold of a materialized asset; a broken rule of severity ERROR stops what follows in the run.

The rules follow from the declared tables and are computed by `recommender.quality`; here is what is checked when, and
what it is compared with. Each result says what was found, what was expected and what is allowed.
"""

from recsys_assets.orchestration.checks import declared, segments

CHECKS = [*declared.CHECKS, *segments.CHECKS]
