"""What a network returns: which part is the logits, what the targets ask of it, and which loss fits."""
