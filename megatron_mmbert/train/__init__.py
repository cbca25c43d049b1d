"""Training one phase: the loop, the step, and hooks for all that is not essential."""
