"""The analyses, one file each; there is no list to edit."""
