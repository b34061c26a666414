"""Networks, segmentations and perturbations of the companion methods. Knows torch only."""
