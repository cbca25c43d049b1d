"""Cells of an evaluation: one result file for each (subject, task, language, seed, setting), and the tables of all."""
