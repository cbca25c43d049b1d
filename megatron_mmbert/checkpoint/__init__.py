"""Checkpoints: Megatron-Core's distributed format plus one readable JSON, committed whole or not at all."""
