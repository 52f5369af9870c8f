"""How one run goes: the driver, the stages as one job calls them, signals, and progress on the terminal."""
