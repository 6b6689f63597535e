"""The values that the client's methods take and return."""
