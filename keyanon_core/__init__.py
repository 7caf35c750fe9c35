"""The algorithm of keyanon: priors, keyed transforms, methods, faces. Knows no Ray, HTTP or database."""
