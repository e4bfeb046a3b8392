"""Injected faults: failing disks, kills, damaged and hostile files."""
