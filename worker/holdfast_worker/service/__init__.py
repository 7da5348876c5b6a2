"""A worker as a service of systemd: what its unit says, where that lies, and who is told of it."""
