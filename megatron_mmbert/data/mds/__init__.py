"""Shards of MosaicML's streaming format (MDS) that hold token ids: to a token store without tokenizing, and back."""
