"""What runs in a network: operations, layers and their names, channel axes, whose each row is, parameters."""
