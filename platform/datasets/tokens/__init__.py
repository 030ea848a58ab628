"""Texts as tokens: documents from files, the tokenizer, folders of tokens, and what training reads out of them."""
