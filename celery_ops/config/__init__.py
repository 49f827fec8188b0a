"""What an operator writes down: contexts, hosts, services, and the strict YAML they stand in."""
