"""Work that no caller asks for: the sweep, and rotations that a policy asks for."""
