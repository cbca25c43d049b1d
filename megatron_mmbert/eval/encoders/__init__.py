"""Encoders that ``mmbert evaluate`` scores: ours by packed inference, any of transformers in padded batches."""
