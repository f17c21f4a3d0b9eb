"""The checks, one small module per family. Each has a name, a sentence, and a function that finds out."""
