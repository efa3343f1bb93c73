"""Effects. Objects, in a directory or a bucket, with conditional writes."""
