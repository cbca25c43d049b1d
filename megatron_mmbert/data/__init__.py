"""From text to packed, masked batches: documents, the token store, the mixture, packing, masking, the loader."""
