"""A plan as tables for a terminal and as plots."""
