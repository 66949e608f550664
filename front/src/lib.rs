//! A gRPC server for Python: HTTP/2, TLS and limits outside Python's lock, calls many at a time.
//!
//! `Server` is all that Python sees. The threads of the server never take Python's lock: a thread of Python fetches calls
//! by `recv_batch`, an event loop fetches what happens to streams by `events`, and answers come from any thread.

pub mod bridge;
pub mod budget;
pub mod call;
pub mod connection;
pub mod guard;
pub mod lock;
pub mod message;
#[cfg(feature = "python")]
mod python;
pub mod server;
pub mod status;
pub mod tls;
