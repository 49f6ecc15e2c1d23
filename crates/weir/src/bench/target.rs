//! The node that is measured: one that the bench starts in a folder of its own and stops by its own pid, or one
//! that is running already.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::wire::Connection;

/// A server under measurement.
pub(super) struct Target {
    pub(super) address: SocketAddr,
    /// Known only where the bench started the server or was told.
    pub(super) pid: Option<u32>,
    /// From the start of the process to its first answer.
    pub(super) ready_after: Duration,
    child: Option<Child>,
}

impl Target {
    /// Starts `weir serve` in `folder`.
    pub(super) async fn node(folder: &Path) -> io::Result<Self> {
        let address = free_address()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["serve", "--listen", &address.to_string(), "--data"]).arg(folder.join("data"));
        Self::spawn(command, address, Some(folder), "/readyz").await
    }

    /// Starts the bare server that stores nothing.
    pub(super) async fn reference() -> io::Result<Self> {
        let address = free_address()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bench", "--reference-server", &address.to_string()]);
        Self::spawn(command, address, None, "/readyz").await
    }

    /// A node that is running already.
    pub(super) fn running(address: SocketAddr, pid: Option<u32>) -> Self {
        Self { address, pid, ready_after: Duration::ZERO, child: None }
    }

    async fn spawn(
        mut command: Command,
        address: SocketAddr,
        folder: Option<&Path>,
        ready: &str,
    ) -> io::Result<Self> {
        let log = match folder {
            Some(folder) => Stdio::from(std::fs::File::create(folder.join("server.log"))?),
            None => Stdio::null(),
        };
        let start = Instant::now();
        // `WEIR_*` of the caller's shell must not change what is measured.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WEIR_")) {
            command.env_remove(name);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
        let pid = child.id();
        let mut target = Self { address, pid: Some(pid), ready_after: Duration::ZERO, child: Some(child) };
        let request = get(ready, "*/*");
        loop {
            if let Ok(mut connection) = Connection::open(address).await
                && connection.call(&request).await.is_ok()
            {
                target.ready_after = start.elapsed();
                return Ok(target);
            }
            if let Some(child) = &mut target.child
                && let Some(status) = child.try_wait()?
            {
                return Err(io::Error::other(format!("the server ended at once: {status}; see server.log")));
            }
            if start.elapsed() > Duration::from_secs(60) {
                return Err(io::Error::other("the server was not ready within a minute"));
            }
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
    }

    /// Sends the started server SIGTERM and waits until it has ended.
    pub(super) async fn stop(mut self) -> io::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        terminate(&child);
        let start = Instant::now();
        while child.try_wait()?.is_none() {
            if start.elapsed() > Duration::from_secs(30) {
                child.kill()?;
                child.wait()?;
                return Err(io::Error::other("the server did not stop within 30 s of SIGTERM"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Creates or replaces a stream.
    pub(super) async fn create_stream(&self, name: &str, durability: &str) -> io::Result<()> {
        let body = format!(r#"{{"durability":"{durability}"}}"#);
        let request = format!(
            "PUT /streams/{name} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        Connection::open(self.address).await?.call(request.as_bytes()).await.map(drop)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn terminate(child: &Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

fn free_address() -> io::Result<SocketAddr> {
    std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()
}

/// A GET request.
pub(super) fn get(path: &str, accept: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\naccept: {accept}\r\n\r\n").into_bytes()
}
