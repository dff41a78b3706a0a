"""Starting and arranging the processes of a run."""
