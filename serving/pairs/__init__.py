"""Pairs on disk and in a running service: reading, verifying, versions, promotion, shadow."""
