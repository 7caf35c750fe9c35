"""`keyanon attack`: attacks on what a run published, and the page that says what came of them."""
