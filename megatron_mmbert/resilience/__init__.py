"""What watches a run: consistency of ranks, failed ranks, hangs, stragglers, loss spikes."""
