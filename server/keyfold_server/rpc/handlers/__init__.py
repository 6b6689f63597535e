"""What each method of the contract does: request bytes to the service, and its answer to bytes."""
