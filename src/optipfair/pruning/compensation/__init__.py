"""What the kept parts must do for the removed ones."""
