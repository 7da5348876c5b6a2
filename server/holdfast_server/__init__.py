"""The server of Holdfast: MCP over stdio and HTTP, the composition root, and the commands that start it."""
