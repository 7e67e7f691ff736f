"""The Python node of a federation whose other nodes, and server, are written in C++."""
