"""The token store: Megatron ``.bin``/``.idx`` shards and a manifest; reading, writing, verifying, concatenating."""
