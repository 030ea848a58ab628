"""`mplat perplexity`: how well a model predicts whole documents."""
