"""Effects. From files to a module that runs: allow-listed architectures, checked programs, never a model's own code."""
