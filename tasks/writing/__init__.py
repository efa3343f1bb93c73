"""Effects. From masks to files: what is changed, written, recounted and opened again."""
