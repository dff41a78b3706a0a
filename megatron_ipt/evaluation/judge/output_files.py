"""Files of the stage ``judge``."""

JUDGED = "judge.json"
