"""Promotion: decides whether a new configuration replaces the configuration in use."""
