"""How the command line speaks: exit codes, options, output, and what a wait looks like."""
