"""The outside world of the demo and of the tests: a payment gateway and a carrier with books of their own and faults to switch on."""
