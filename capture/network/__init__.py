"""Operations of a network: layers and their names, channel axes, order of rows, parameters."""
