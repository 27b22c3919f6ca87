"""From a configuration to a run folder, and all that one does with a run."""
