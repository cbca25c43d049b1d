"""Attention engines, one file each; :mod:`megatron_mmbert.attention.interface` is their contract."""
