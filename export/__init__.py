"""Export: merge, convert, quantize, check parity, gate."""
