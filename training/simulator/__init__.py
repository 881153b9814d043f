"""Simulated pipes: worlds, a camera travelling through them, frames and inspections with known truth."""
