"""Running state that methods share."""
