"""Deletion of everything under one path, in bounded memory."""
