"""Who does the work: in this process, on actors, or in gangs; all behind one `Pool`."""
