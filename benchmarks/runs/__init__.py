"""What whole runs cost: evaluations, streams, growth."""
