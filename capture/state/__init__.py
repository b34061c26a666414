"""State that a check puts back: the network's, the process's, and that of random generators."""
