"""StableAdamW, its parameter groups, and the learning-rate and batch-size schedules, all counted in tokens."""
