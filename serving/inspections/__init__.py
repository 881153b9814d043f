"""Inspection videos: reading, scoring, findings, what is written, reviews."""
