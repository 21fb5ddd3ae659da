"""Types of the small extension that is loaded before `_core`. Private."""

def nanoseconds() -> float:
    """What one pause of a spinning thread takes here; measured anew, in 20 to 300 us."""
