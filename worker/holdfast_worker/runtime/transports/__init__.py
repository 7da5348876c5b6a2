"""The ways to a server: REST, push sessions, MCP. `base` says what each of them does."""
