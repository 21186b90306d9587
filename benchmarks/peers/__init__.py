"""Other job systems doing the same work on the same servers, each in a virtual environment of its own."""
