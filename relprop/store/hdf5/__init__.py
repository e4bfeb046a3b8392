"""What HDF5 itself needs: opening, compression, locks, space and repair."""
