"""Merging checkpoints tensor by tensor: TIES, linear, SLERP, task arithmetic, exponentially weighted mix."""
