"""The contract: what users write, what a manager reports, and what the strings in both mean.

Imported by every other room, imports none of them: pydantic, msgspec and the standard library only.
"""
