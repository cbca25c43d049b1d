"""Probes of frozen vectors: what a task's head does with what a subject (model, random weights, n-grams) gives it."""
