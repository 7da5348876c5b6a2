"""SQL, by noun. Functions over a connection: they never commit, and never announce."""
