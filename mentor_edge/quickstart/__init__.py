"""The quickstart: the whole loop on the embedded nano student."""
