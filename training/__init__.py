"""Everything that learns: simulated pipes, packs, pretraining, probes and the export of pairs."""
