"""Engines that spread a run: processes, Ray, batch systems."""
