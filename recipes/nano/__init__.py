"""The embedded nano students and the warm start that trains them."""
