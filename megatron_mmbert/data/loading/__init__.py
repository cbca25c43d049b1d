"""From samples to batches: packing, masking, the data loader and its prefetching."""
