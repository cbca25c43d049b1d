"""The samples that a phase draws: sampling weights, mixture blocks, and the points where a phase resumes."""
