"""The embedded nano students and the warm start that makes them."""
