"""Data sets on disk, packs in memory, and the views that pretraining makes of them."""
