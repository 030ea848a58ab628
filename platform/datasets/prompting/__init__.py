"""From a question to the prompt that a model reads: templates, what is cut, and what is scored against."""
