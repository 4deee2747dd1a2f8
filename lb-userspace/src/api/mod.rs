//! The admin API: HTTP/1.1 and JSON over a unix socket.

pub mod types;
