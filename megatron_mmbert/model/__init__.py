"""The encoder on Megatron-Core: configuration, layers, head and loss, initial weights."""
