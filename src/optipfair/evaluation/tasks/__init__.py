"""The tasks, one module for each data set or kind. Importing this registers them all."""
