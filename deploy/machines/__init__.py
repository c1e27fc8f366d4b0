"""Actors on the container engines of other machines, through the Docker SDK."""
