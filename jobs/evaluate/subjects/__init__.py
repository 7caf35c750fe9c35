"""Whom pictures show, as a recognizer sees it: subjects proposed for a run, for its user to check."""
