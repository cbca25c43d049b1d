"""The report of a run: plots, tables, and sentences about what was learned."""
