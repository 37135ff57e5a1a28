"""Asset checks: what must hold of a materialized asset. Each result says what was found and what was expected."""

import dagster as dg

CHECKS: list[dg.AssetChecksDefinition] = []
