"""Parts that several callbacks share, and the larger parts of single ones."""
