"""Where records come from: files of every kind, packed or not, and the Hugging Face hub."""
