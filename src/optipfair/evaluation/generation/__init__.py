"""What models write, token by token, and how far two of them write the same."""
