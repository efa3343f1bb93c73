"""Effects. What follows from verdicts: publishing, signing, and moving aliases with a record."""
