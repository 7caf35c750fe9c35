"""Whole pictures: faces found, anonymized together, gated, pasted back; and one picture restored from its key.

`settings` and `key` say what goes in and out and need no torch, so that a driver, which computes nothing, need not load it;
`anonymizer` and `recoverer` do the work.
"""
