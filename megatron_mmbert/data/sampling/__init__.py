"""Which samples a phase draws: sampling weights, the mixture's blocks, and where a phase resumes."""
