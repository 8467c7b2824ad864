"""Sign-off: the plan of a lever, what it will probably cost, and a person's answer."""
