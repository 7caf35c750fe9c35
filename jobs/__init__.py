"""Ray Data programs and the `keyanon` command line: the only place that knows keyanon_core and keystore."""
