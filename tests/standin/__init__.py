"""Stand-ins for the ports: a small simulated fleet under a virtual clock."""
