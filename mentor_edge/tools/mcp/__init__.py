"""Tools of MCP (Model Context Protocol) servers."""
