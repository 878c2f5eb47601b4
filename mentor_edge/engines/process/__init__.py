"""What every runtime in a child process shares: the parent's side, the child's side, the messages between them."""
