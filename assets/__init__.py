"""What ships with the house: a toy model, so that everything runs without downloads or a GPU."""
