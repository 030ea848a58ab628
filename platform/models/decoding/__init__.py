"""From prompts to new text."""
