"""What ships with the house: a tiny model, so that everything runs without downloads or a GPU."""
