"""Who may have what: policy, people, the life of a request, and the release that ends it."""
