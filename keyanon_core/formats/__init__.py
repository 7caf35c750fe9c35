"""Published pictures in the format of their sources: what of a file is kept, what is encoded anew, and what goes."""
