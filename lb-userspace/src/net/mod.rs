//! The host's network as the kernel knows it: links, addresses, routes, neighbours, and the VIPs we add.
