"""The commands that are not stages; each module holds those of one subject and imports its code when one is called."""
