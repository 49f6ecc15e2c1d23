//! The program as a shell uses it: the real binary against a real node, each in its own process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod program {
    pub(crate) mod demo;
    pub(crate) mod harness;
    pub(crate) mod offline;
    pub(crate) mod pipes;
    pub(crate) mod sharing;
}
