"""Everything that is about HDF5 itself: opening, compression, locks, space and repair."""
