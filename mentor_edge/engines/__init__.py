"""Engines: things that generate tokens. Import the one you need; each loads its runtime only when constructed."""
