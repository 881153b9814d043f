"""What the service says about itself: metrics, drift, logs, traces."""
