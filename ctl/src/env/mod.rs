//! Environment files: read, merged with defaults, validated.
