"""The study: a grid of experiments over methods, encoders, defect proportions and seeds."""
