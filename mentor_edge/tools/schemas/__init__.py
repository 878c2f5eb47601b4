"""JSON Schemas of tool arguments: reading those of other programs, and checking arguments against them."""
