"""Do the tests see what they are for? The product is broken on purpose, one fence at a time, and a named test has to fail: `make mutants`."""
