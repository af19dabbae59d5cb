"""Placeholder."""

def draw(record, verdict):
    return "x"
