//! Rings: who owns which row, computed the same on every node.
