//! The interface, tested through its router without sockets.

mod access;
mod app;
mod calls;
mod codes;
mod events;
mod life;
mod memory;
mod node;
mod streams;
