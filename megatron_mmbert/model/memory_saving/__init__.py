"""Savings of memory and of passes over it: one idea a file, none of which changes what the encoder computes.

| file | idea |
|---|---|
| :mod:`.masked_rows` | after its attention the last layer computes the masked positions alone |
| :mod:`.recompute` | a linear layer keeps how to compute its input instead of the input (``recompute: light``) |
| :mod:`.chunked_cross_entropy` | logits exist for some rows at a time; their gradients are made while they do |
| :mod:`.tied_embedding_grad` | decoder and lookup write into one gradient of the word embedding |
| :mod:`.in_place_sum` | a residual sum takes the memory of the branch that is added |

Beside these, on a CPU, :mod:`megatron_mmbert.kernels.scratch`: large temporaries of all layers share memory.
"""
