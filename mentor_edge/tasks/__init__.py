"""Tasks and suites: what a student is trained and tested on."""
