"""`mplat tokenize` and `mplat tokenizer train`: files of texts to a folder of tokens, and to a vocabulary."""
