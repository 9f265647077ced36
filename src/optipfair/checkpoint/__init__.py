"""Models on disk: what a checkpoint holds, and folders that appear only when complete."""
