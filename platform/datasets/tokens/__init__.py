"""Texts as tokens: documents from files, the tokenizer that reads them, and folders of tokens on disk."""
