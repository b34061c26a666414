"""Outputs of a network: which part is the logits, what the targets are, and which loss fits."""
