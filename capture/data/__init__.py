"""The held-out set: sources of samples, and their choice, reading and storage."""
