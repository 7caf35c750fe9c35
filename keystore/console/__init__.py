"""The console in the browser: pages over the very functions that the HTTP interface calls (pages.py is the table of them)."""
