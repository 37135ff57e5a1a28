"""Everything that knows Dagster: assets, checks, jobs, what starts them, and what carries them out."""
