"""The keystore over HTTP: who may call what (endpoints), how callers are held (guard), what they get (app), and a client."""
