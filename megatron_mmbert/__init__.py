"""Training of massively multilingual ModernBERT-style encoders on Megatron-Core (the mmBERT recipe)."""

__version__ = "0.1.0"
