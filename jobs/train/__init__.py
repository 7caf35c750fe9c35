"""`keyanon train-prior`: faces cut from pictures once, a prior trained on them with Ray Train, a page to watch it by."""
