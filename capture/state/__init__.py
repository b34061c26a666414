"""State that a check restores: the network's, the process's, and that of random generators."""
