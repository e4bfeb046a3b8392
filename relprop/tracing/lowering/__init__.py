"""From an ATen program to the core form that rules are written for."""
