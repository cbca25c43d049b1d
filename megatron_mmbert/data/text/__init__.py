"""Reading raw text: input files, their formats, records, documents, deduplication, held-out splits, sentence ends."""
