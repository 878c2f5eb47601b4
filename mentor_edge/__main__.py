"""`python -m mentor_edge` is `mentor-edge`."""

from mentor_edge.cli.app import main

main()
