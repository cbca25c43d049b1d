"""Training a SentencePiece tokenizer, loading any tokenizer the project can use, exporting it to Hugging Face."""
