"""What everything stands on: declared tables, frames of both engines, the id index, splits, what counts as liked."""
