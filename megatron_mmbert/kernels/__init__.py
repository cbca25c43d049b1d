"""Element-wise work with few passes over memory."""
