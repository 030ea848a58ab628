"""Data sets: one reader per file, the generated facts world, prompts and the classification of questions."""
