"""Whether another configuration may replace the one in use."""
