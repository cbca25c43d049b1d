"""Watching a run: consistency of ranks, failed ranks, hangs, stragglers, loss spikes, the lease of the run's folder.

README.md in this folder lists what a run does when something happens, and the file that decides it.
"""
