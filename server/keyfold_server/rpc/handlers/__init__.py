"""The handlers of the methods: each takes a request's bytes, and returns the reply's bytes."""
