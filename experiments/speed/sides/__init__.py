"""One module per library; each imports that library alone, in an environment of its own."""
