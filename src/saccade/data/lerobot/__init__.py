"""LeRobot v2.x and v3.0: read, and written as v3.0."""
