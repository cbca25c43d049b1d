"""Training of massively multilingual ModernBERT-style encoders on Megatron-Core (the mmBERT recipe)."""

from megatron_mmbert.utils.te_import import guard_megatron

__version__ = "0.1.0"

guard_megatron()
