"""scikit-learn has no types of its own: here are those of what is used."""
