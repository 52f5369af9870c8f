"""The command line: composes the configuration, starts the cluster, returns the exit code."""
