"""Reading raw text: input files, records, documents, exact deduplication, held-out splits, sentence ends."""
