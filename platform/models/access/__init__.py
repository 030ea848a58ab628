"""Reading and editing what is inside a forward pass: sites, captures, edits, and the pass that they act on."""
