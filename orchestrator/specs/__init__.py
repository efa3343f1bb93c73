"""Pure. The parts of a fleet file, each checked by a model of its own, and the YAML beneath."""
