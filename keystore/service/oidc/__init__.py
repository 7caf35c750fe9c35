"""Signing in through an identity provider (OpenID Connect): its word, verified, is exchanged for a token of this keystore."""
