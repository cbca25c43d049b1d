"""Conversion between this project's encoder and Hugging Face's ModernBERT, both ways, bit-exact."""
