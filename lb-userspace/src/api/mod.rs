//! The admin API: HTTP/1.1 and JSON over a unix socket; metrics and probes over TCP.

pub mod admin;
pub mod client;
pub mod probes;
pub mod route;
pub mod server;
pub mod types;
