"""The held-out set: where samples come from, which are chosen, how they are read and kept."""
