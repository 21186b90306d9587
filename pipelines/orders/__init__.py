"""The orders domain: place, charge, ship, confirm, and release when a charge was declined. Each submits the next in its transaction."""
