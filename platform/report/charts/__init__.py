"""The figures of a report: numbers in, SVG out."""
