"""What everything else stands on: settings, names, logging, transport. It knows none of the floors above it."""
