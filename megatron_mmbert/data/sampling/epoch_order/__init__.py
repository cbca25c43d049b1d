"""The order of examples within the epochs of one dataset; see README.md for a drawing and an example."""
