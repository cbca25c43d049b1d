"""Raw text to a token store: tokenization in worker processes, resumable partitions, and their merge."""
