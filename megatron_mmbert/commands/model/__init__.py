"""Commands that read or make checkpoints and exported models."""
