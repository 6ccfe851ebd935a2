"""What a user reads of every recording, as text: written by ``make.py``, held by a test."""
