"""Measuring an encoder: held-out bits per byte by language, and what it fills into masks."""
