"""Diagnosis of what training would run on: one machine, and whether all nodes are alike and ready."""
