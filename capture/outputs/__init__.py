"""Outputs of a network: the part that is the logits, the kind of targets, and the loss that fits."""
