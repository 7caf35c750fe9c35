"""What may be asked of pseudonyms. Apart from them, because who asks needs no database."""

MAX_SUBJECTS = 500  # in one call
MAX_SUBJECT_CHARACTERS = 1024  # as in a key record
MAX_CARRIERS = 32  # numbers that a carrier may have, from 0
