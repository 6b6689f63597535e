"""Callers by token: the JSON Web Tokens of one issuer, and that issuer's keys."""
