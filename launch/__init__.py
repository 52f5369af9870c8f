"""How it is started: configuration in, cluster up, exit code out."""
