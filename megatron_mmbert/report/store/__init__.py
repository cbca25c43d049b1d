"""A page on a token store: counts of all documents from the index, and what a sample of the text looks like."""
