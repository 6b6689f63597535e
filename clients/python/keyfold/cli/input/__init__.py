"""What commands read: options, region specs, files and prompts."""
