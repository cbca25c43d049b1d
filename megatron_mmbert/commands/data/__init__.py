"""Commands that read or make text, tokenizers and token stores."""
