"""parse -> compose -> candidates per modality -> fuse. One step a file; `search.py` reads top to bottom."""
