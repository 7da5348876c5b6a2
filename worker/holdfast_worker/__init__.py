"""The worker's side of Holdfast: the client, the command line and the demo.

It imports only the light row of `holdfast_core`, so that a worker host installs without a database
driver, a web framework or an MCP server.
"""
